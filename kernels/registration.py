"""Register an operator with torch: a schema, with one implementation for CPUs and one for CUDA.

An implementation is imported at its first call: Numba and Triton take seconds to import, and a process needs one of
them.
"""

from importlib import import_module
from typing import Any

import torch


def register(operator: str, schema: str, implementation: str) -> None:
    """Define `operator`, such as atft::soft_rank, with a schema as torch.library.define takes it.

    implementation: "module.function", looked up in kernels.cpu for tensors on the CPU and in kernels.cuda for CUDA.
    """
    torch.library.define(operator, schema)
    module, function = implementation.split(".")
    for device in ("cpu", "cuda"):

        @torch.library.impl(operator, device)
        def call(*inputs: Any, path: str = f"kernels.{device}.{module}") -> Any:
            return getattr(import_module(path), function)(*inputs)
