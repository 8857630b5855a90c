"""pytorch-forecasting's Temporal Fusion Transformer (Lim et al. 2021): the model that ours descends from.

On the same samples as windows, L - 1 days for its encoder and the scored day for its decoder, every feature known in
both; as wide as our temporal branch, one LSTM layer, four heads. It outputs our score and quantiles for each horizon,
and our objective trains it. It takes tensors directly, without its own data set and trainer, which collate sample by
sample. It embeds each feature by separate operators, so its step takes a batch of about 1,024 windows, in whole days,
instead of a block; time is compared per sample. It does not support masks within a window.

N windows, L context, F features, H horizons, Q quantile levels
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.peers.training._accumulate import State, start, steps
from bench.workloads.arrays import Arrays
from bench.workloads.training import HORIZONS, Training
from engine.model.atft.network import SIZES

TASK = "train"
NEEDS = ("pytorch_forecasting", "lightning")
BLOCKS = 1
BATCH = 1024  # windows of a step
CHUNK = 512  # of them that are in memory at a time: 1 to 7 GB of activations
HEADS = 4


@contextmanager
def build(work: Training) -> Iterator[State]:
    """A model, and blocks of the fewest days that fill a batch."""
    able = work.with_days(min(max(BATCH // work.codes, 1), work.days))
    model = new_model(able).to(work.device)

    def forward(x: Tensor, _present: Tensor) -> tuple[Tensor, Tensor]:
        out = model(inputs(x)).prediction[:, -1].unflatten(-1, (HORIZONS, -1))
        return out[..., 0], out[..., 1:]

    yield start(able, model, forward, most=CHUNK)


def run(state: State, blocks: list[Arrays]) -> Iterator[Tensor]:
    """Yield, for each block, its loss []."""
    yield from steps(state, blocks)


def new_model(work: Training) -> Any:
    """A TemporalFusionTransformer of F known features, with H (1 + Q) outputs for the scored day."""
    from pytorch_forecasting import TemporalFusionTransformer
    from pytorch_forecasting.metrics import QuantileLoss

    model, names = work.config.model, [f"f{i}" for i in range(work.features)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(work.config.train.seed)
        return TemporalFusionTransformer(
            hidden_size=SIZES[model.size].width, hidden_continuous_size=SIZES[model.size].width // 2,
            attention_head_size=HEADS, lstm_layers=1, dropout=model.dropout, max_encoder_length=work.context - 1,
            output_size=HORIZONS * (1 + len(model.quantiles)), loss=QuantileLoss(list(model.quantiles)),
            output_transformer=unscaled, x_reals=names, time_varying_reals_encoder=names,
            time_varying_reals_decoder=names,
        )  # fmt: skip


def inputs(x: Tensor) -> dict[str, Tensor]:
    """Windows [N, L, F] as the arguments of its `forward`."""
    number, context, _ = x.shape
    lengths = torch.full((number,), context - 1, device=x.device)
    none = torch.empty(number, context, 0, dtype=torch.long, device=x.device)
    return {
        "encoder_cont": x[:, :-1],
        "decoder_cont": x[:, -1:],
        "encoder_cat": none[:, :-1],
        "decoder_cat": none[:, -1:],
        "encoder_lengths": lengths,
        "decoder_lengths": torch.ones_like(lengths),
        "target_scale": torch.tensor([0.0, 1.0], device=x.device).expand(number, 2),
    }


def unscaled(out: dict[str, Tensor]) -> Tensor:
    """The prediction itself: targets are not scaled."""
    return out["prediction"]
