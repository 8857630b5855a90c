"""A step as one CUDA graph: its launches are recorded once, and a replay costs the host one call."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM = 3  # runs before the capture, in which libraries choose algorithms and take their memory


def captured(body: Callable[[], None], device: torch.device, changed: Sequence[Tensor]) -> Callable[[], None]:
    """A function that does what `body` does; on CUDA a replay of its graph, elsewhere `body` itself.

    Args:
        body: reads and writes tensors that stay where they are, and never waits for the device.
        changed: the tensors that it writes and reads again. They are put back after the runs that warm it up.
    """
    if device.type != "cuda":
        return body
    kept = [tensor.clone() for tensor in changed]
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            body()
    torch.cuda.current_stream(device).wait_stream(stream)
    for tensor, before in zip(changed, kept, strict=True):
        tensor.copy_(before)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay
