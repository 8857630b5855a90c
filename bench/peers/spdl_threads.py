"""SPDL, a pipeline of threads, fed with our own blocks: the same arrays, so the machinery alone is compared.

Two threads form blocks with torch, which lets go of Python's lock while it copies; nothing crosses a process. The
idea of blocks is lent to the rival, as it is to `spawn_blocks`. A pipeline is built for each pass, as its users build
one for each epoch: it has no way to be given another order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench.peers._dataloader import form
from bench.source import Work
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("spdl",)
BLOCKS = 24
THREADS = 2


@contextmanager
def build(work: Work) -> Iterator[Work]:
    """Nothing to prepare: threads share the panel that is open already."""
    yield work


def run(work: Work, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, x [S, T, F], presence [S, T], y [S, D, H]."""
    from spdl.pipeline import PipelineBuilder

    pipeline = (
        PipelineBuilder()
        .add_source(blocks)
        .pipe(partial(one, work), concurrency=THREADS, output_order="input")
        .add_sink(THREADS)
        .build(num_threads=THREADS, max_failures=0)
    )
    with pipeline.auto_stop():
        yield from pipeline


def one(work: Work, block: Block) -> Batch:
    """The arrays of a block."""
    return form(work.panel, work.part, block, work.days, work.context)
