"""Several processes as one, under torchrun: each takes a share of the days of every block.

A block's cross-sections are whole on one rank, and dropout draws the same for all days of a code, so ranks together
compute what one process would: the loss of the block, `sharpe` over all of its days included, and its gradient. They
meet twice a step: for numbers of names, terms and daily returns after the forward, and for the gradients. A run may be
resumed with another number of ranks.

W ranks, H horizons, G cross-sections (days) of a rank
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from os import environ
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.rank_terms import SHARPE, sharpe_ratio
from loaders.errors import InputError

T = TypeVar("T")

CURE = "Start with torchrun, or clear the variables that it sets"
PATIENCE = timedelta(minutes=10)  # that a rank waits for another one: longer than any validation


class RankLost(Exception):
    """Another rank does not answer: it has died, or the network between them."""


@dataclass(frozen=True)
class World:
    """The processes of a run."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def days(self, days: int) -> range:
        """The scored days of a block that are this rank's. Raises InputError where they do not divide evenly."""
        if days % self.size:
            what = f"{days} days cannot be shared evenly by {self.size} ranks"
            raise InputError("data.block_days", what, "Choose a multiple of the number of ranks")
        return range(days * self.rank // self.size, days * (self.rank + 1) // self.size)

    def all_gather(self, values: Tensor) -> Tensor:
        """The tensors of all ranks, of one shape, in their order: [W, ...]. Raises RankLost."""
        if self.size == 1:
            return values[None]
        found = [torch.empty_like(values) for _ in range(self.size)]
        with _lost_ranks():
            dist.all_gather(found, values.contiguous())
        return torch.stack(found)

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's items: shards of nearly one length, in the order of ranks."""
        return items[len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size]

    def all_gather_cat(self, values: Tensor) -> Tensor:
        """The tensors [N of the rank, ...] of all ranks, one after the other. Raises RankLost."""
        if self.size == 1:
            return values
        counts = self.all_gather(torch.tensor(len(values), device=values.device)).tolist()
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        return torch.cat([of_rank[:count] for of_rank, count in zip(self.all_gather(padded), counts, strict=True)])

    def broadcast(self, text: str) -> str:
        """The first rank's text, on every rank. Raises RankLost."""
        texts = [text]
        if self.size > 1:
            with _lost_ranks():
                dist.broadcast_object_list(texts)
        return texts[0]

    def barrier(self) -> None:
        """Until all ranks have come here. Raises RankLost."""
        if self.size > 1:
            with _lost_ranks():
                dist.barrier()

    def all_reduce(self, values: Tensor) -> None:
        """Replace values by their sum over all ranks. Raises RankLost."""
        if self.size > 1:
            with _lost_ranks():
                dist.all_reduce(values)


SINGLE = World()


@contextmanager
def _lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise for a closed connection or a timeout
        raise RankLost(str(error).splitlines()[0]) from error


def is_first() -> bool:
    """Whether this process is the one that talks to the user."""
    return environ.get("RANK", "0") == "0"


def _told(name: str, default: int | None = None) -> int:
    """A number that torchrun tells a process. Raises InputError where it is missing or none."""
    text = environ.get(name, None if default is None else str(default))
    try:
        return int(text or "")
    except ValueError as error:
        what = "is not set, and others of torchrun are" if text is None else f"{text!r} is no number"
        raise InputError(name, what, CURE) from error


@contextmanager
def open_world(device: str) -> Iterator[tuple[World, str]]:
    """The processes that torchrun has started, or this one alone; and the device of this one.

    Raises InputError where the variables of torchrun do not go together, or its ranks do not meet.
    """
    size = _told("WORLD_SIZE", 1)
    rank = _told("RANK", 0 if size == 1 else None)
    if not 0 <= rank < size:
        raise InputError("RANK", f"{rank} is not one of {size} ranks (WORLD_SIZE)", CURE)
    if size == 1:
        yield World(), device
        return
    host, port = environ.get("MASTER_ADDR", ""), _told("MASTER_PORT")
    try:
        if not (host and 0 < port < 65_536):
            raise ValueError("a host and a port below 65536 are wanted")
        socket.getaddrinfo(host, port)
    except (OSError, ValueError) as error:
        what = f"{host}:{port} is no address ({error})"
        raise InputError("MASTER_ADDR and MASTER_PORT", what, CURE) from error
    if device in ("auto", "cuda") and torch.cuda.is_available():
        number = _told("LOCAL_RANK")
        if not 0 <= number < torch.cuda.device_count():
            what = f"{number}, and this machine has {torch.cuda.device_count()} CUDA devices"
            raise InputError("LOCAL_RANK", what, "Start at most one process for each of them")
        device = f"cuda:{number}"
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        what = f"{size} ranks cannot meet at {host}:{port} ({str(error).splitlines()[0]})"
        raise InputError("torchrun", what, "Check that all have started, and that the port is free") from error
    try:
        yield World(rank, size), device
    finally:
        dist.destroy_process_group()


def sync_loss(
    world: World, of_rank: tuple[Tensor, ...], weight: Tensor, of_horizon: Tensor, stop: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What a rank has to differentiate, the blocks' losses and terms, and whether any rank was asked to stop.

    Args:
        of_rank: what `Objective.of_rank` gives for K members.
        weight: [K] of `sharpe`.
        of_horizon: [K, H] weights of the horizons.
        stop: [1] float, above 0 where this rank was asked to stop.

    Returns a tensor [K] whose gradients, added over ranks, are those of the blocks' losses; [K, 1 + TERMS] losses and
    terms of the blocks; and the flag [1] of all ranks. No operator depends on a value.
    """
    loss, terms, entries, daily, alive = of_rank
    count = terms.shape[1]
    head = torch.stack([entries, stop.expand(len(loss)), loss.detach()], 1)
    results = world.all_gather(torch.cat([head, terms, daily.detach().flatten(1), alive.flatten(1)], 1))  # [W, K, ...]
    share = results[..., 0] / results[..., 0].sum(0).clamp(min=1e-6)
    values = (share[..., None] * results[..., 2 : 3 + count]).sum(0)
    days = results[..., 3 + count :].unflatten(2, (2, *daily.shape[1:]))
    # [W, K, 2, H, G] -> [2, K, H, W G]: the days of all ranks side by side.
    every, living = days.permute(2, 1, 3, 0, 4).flatten(3).unbind()
    every = every.detach().requires_grad_()
    with torch.enable_grad():
        sharpe = -(sharpe_ratio(every, living)[..., 0] * of_horizon).sum(-1) / of_horizon.sum(-1)
        (slope,) = torch.autograd.grad(sharpe.sum(), every)
    mine = slope.unflatten(2, (world.size, -1))[:, :, world.rank]
    on = weight != 0
    values[:, 0] += torch.where(on, weight * sharpe.detach(), 0.0)
    values[:, 1 + SHARPE] = torch.where(on, sharpe.detach(), torch.nan)
    total = loss * share[world.rank] + torch.where(on, weight, 0.0) * (mine * daily).sum((1, 2))
    return total, values, results[:, 0, 1].amax(0, keepdim=True)
