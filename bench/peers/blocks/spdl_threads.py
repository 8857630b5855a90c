"""SPDL, a pipeline of threads, with our own blocks: the same arrays, so the machinery alone is compared.

Two threads form blocks with torch, which releases the GIL while it copies; nothing passes between processes. The peer
uses blocks, like `spawn_blocks`. Each pass builds a pipeline, as its users build one for each epoch: the order of a
pipeline is fixed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench.workloads.arrays import Arrays, form
from bench.workloads.loading import Loading
from loaders.plan import Block

TASK = "gather"
NEEDS = ("spdl",)
BLOCKS = 24
THREADS = 2


@contextmanager
def build(work: Loading) -> Iterator[Loading]:
    """Nothing to prepare: threads share the open panel."""
    yield work


def run(work: Loading, blocks: list[Block]) -> Iterator[Arrays]:
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


def one(work: Loading, block: Block) -> Arrays:
    """The arrays of a block."""
    return form(work.panel, work.part, block, work.days, work.context)
