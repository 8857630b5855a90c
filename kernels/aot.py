"""Compile every Triton kernel for A100 and H100 without a GPU, and report what it needs: python -m kernels.aot.

The functions that launch kernels are called on example tensors while launches are recorded, so types and constants are
those of a launch. Registers and spills are read from the binary that the launch would load. Nothing is measured.

N entries of a cross-section, H horizons, Q quantile levels, R rotations, K members
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kernels.limits import LONGEST, TILE

# Functions import torch and triton: a process that compiles imports this module before it unsets TRITON_INTERPRET.

SIZES = (64, 512, 1024, 2048, 4096, LONGEST)  # N of the cross-sections
WIDTH = 160  # characters, wider than the table


@dataclass(frozen=True)
class Card:
    """A GPU, with what of it bounds the number of programs that run at a time."""

    name: str
    target: int  # compute capability, 80 for sm_80
    shared_bytes: int  # of a multiprocessor


A100 = Card("A100 80GB SXM", 80, 164 * 1024)
H100 = Card("H100 SXM", 90, 228 * 1024)
CARDS = (A100, H100)

# Of a multiprocessor, the same on both cards.
MOST_WARPS, MOST_PROGRAMS = 64, 32
PARTS, REGISTERS_OF_PART, REGISTERS_STEP = 4, 16384, 256  # registers are given to a warp in steps, from one of 4 parts
SHARED_STEP, SHARED_TAKEN = 128, 1024  # bytes; the driver takes some for every program


@dataclass(frozen=True)
class Program:
    """A kernel with the types, constants and warps of a launch.

    Args:
        module, function: where the kernel is.
        types: of its arguments, such as *fp32, in order; "constexpr" for constants.
        constants: its constexpr arguments.
        warps: of 32 threads.
        variants: what launches may know of integers and addresses, which Triton compiles into the program: that a value
            is 1, or a multiple of 16.
        most_registers: of a thread, where the launch bounds them.
    """

    module: str
    function: str
    types: dict[str, str]
    constants: dict[str, int]
    warps: int
    variants: tuple[dict[str, int], ...]
    most_registers: int | None

    @property
    def name(self) -> str:
        """Such as soft_rank._forward."""
        return f"{self.module.rpartition('.')[2]}.{self.function}"

    @property
    def shape(self) -> str:
        """What it is launched for, in words."""
        match self.constants:
            case {"BLOCK": n}:
                return f"N={n}"
            case {"HALF": half, "CHUNK": values, "TABLE": table}:
                return f"{values} values of {'float16' if half else 'float32'}{', of a table' if table else ''}"
            case {"VALUES": values}:
                return f"{values} values"
            case {"DAYS": days, "WIDTH": horizons, "TABLE": table}:
                return f"{days} days, H={horizons}{', of a table' if table else ''}"
        tile = self.constants["TILE"]
        entries = f"any N ({LONGEST})" if tile == TILE else f"N up to {tile}"
        ranked = self.constants.get("RANKED")
        return entries if ranked is None else f"{entries}, {'ranked' if ranked else 'not ranked'}"


@dataclass(frozen=True)
class Figures:
    """What a program needs on a target: the worst of its variants.

    Args:
        target: such as sm_80.
        registers: of a thread.
        shared_bytes: of a program.
        spill_bytes: of a thread, kept in memory because there were too few registers.
        occupancy: the share of a multiprocessor's warps that can be active at a time.
    """

    name: str
    target: str
    shape: str
    registers: int
    shared_bytes: int
    spill_bytes: int
    warps: int
    occupancy: float


def programs(sizes: Iterable[int] = SIZES) -> list[Program]:
    """Every kernel of the package as it is launched, with sorts of these sizes."""
    from triton.runtime.jit import mangle_type

    found: dict[str, Program] = {}
    with _recorded() as launches:
        for n in sizes:
            _launch_all(n)
    for kernel, arguments, keywords in launches:
        constants = {name: value for name, value in keywords.items() if name in kernel.arg_names}
        names = [name for name in kernel.arg_names if name not in constants]
        values = dict(zip(names, arguments, strict=True))
        types = {name: mangle_type(values[name]) if name in values else "constexpr" for name in kernel.arg_names}
        fixed = getattr(kernel, "kwargs", vars(kernel))["do_not_specialize"] or ()  # kwargs: of the interpreter's
        specialised = [name for name in names if name not in fixed]
        general: tuple[dict[str, int], ...] = ({}, dict.fromkeys(specialised, 16))
        program = Program(
            kernel.fn.__module__,
            kernel.fn.__name__,
            types,
            constants,
            keywords["num_warps"],
            general,
            keywords.get("maxnreg"),
        )
        key = f"{program.name} {keywords}"
        known = found.setdefault(key, program)
        ones = {name: 1 for name in specialised if isinstance(values[name], int) and values[name] == 1}
        if ones and ones not in known.variants:
            found[key] = replace(known, variants=(*known.variants, ones))
    return sorted(found.values(), key=lambda program: program.name)


@contextmanager
def _recorded() -> Iterator[list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Kernel, arguments and keywords of every launch of the `with`, instead of the launches. Keywords are constants."""
    from triton.runtime.jit import KernelInterface

    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    launch = KernelInterface.__getitem__

    def record(kernel: Any, grid: Any) -> Any:
        return lambda *arguments, **keywords: launches.append((kernel, arguments, keywords))

    KernelInterface.__getitem__ = record
    try:
        yield launches
    finally:
        KernelInterface.__getitem__ = launch


def _launch_all(n: int) -> None:
    """Call every function that launches kernels, on cross-sections of n entries."""
    import torch

    from kernels import block_gather
    from kernels.cuda import correlation, rank_objective, soft_rank, uniforms
    from kernels.rank_terms import FUSED

    rows, mask, order = torch.empty(2, n), torch.ones(2, n, dtype=torch.bool), torch.zeros(2, n, dtype=torch.int32)
    number = torch.ones(())
    soft_rank.forward(rows, mask, number)
    soft_rank.backward(rows, mask, number, order, rows, rows, torch.empty(2))
    correlation.average_ranks(rows, mask)
    correlation.pearson(rows, rows, mask)
    for ranked in (True, False):
        for horizons, days, levels, rotations in ((2, 3, 3, 16), (1, 1, 1, 1)):
            members = 3 if days > 1 else 1
            scores = torch.empty(members, horizons, days, n)
            widths = torch.ones(members)
            rank_objective.rank_objective(
                scores, scores, scores, scores == 0, torch.empty(*scores.shape, levels), torch.empty(members, FUSED),
                torch.empty(members, horizons), widths, widths, torch.empty(levels),
                torch.zeros(members, rotations, dtype=torch.int32), ranked,
            )  # fmt: skip
    uniforms.uniforms(torch.zeros(2, dtype=torch.int64), 1000)
    address = torch.zeros(3, 2, dtype=torch.int64)
    presence, y = torch.empty(2, 128, dtype=torch.uint8), torch.empty(2, 109, 2)
    table, step = torch.zeros(4, 1, 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    for half in (True, False):
        for features in (5, 1):
            x = torch.empty(2, 128, features)
            rows_of = address, address[0], address[1], half
            block_gather.gather_block(*rows_of, address[2], 40, 20, (0, 9), 2, x, presence, y)
            block_gather.gather_step(
                *rows_of, table, table[..., 0].long(), step, 20, (0, 9), 2, x[None], presence[None], y[None]
            )


def occupancy(registers: int, shared_bytes: int, warps: int, card: Card) -> float:
    """The share of a multiprocessor's warps that such programs keep active at a time; 0 where none fits."""
    of_warp = _up(32 * registers, REGISTERS_STEP)
    fitting = min(
        MOST_PROGRAMS,
        MOST_WARPS // warps,
        REGISTERS_OF_PART // of_warp * PARTS // warps,
        card.shared_bytes // (_up(shared_bytes, SHARED_STEP) + SHARED_TAKEN),
    )
    return fitting * warps / MOST_WARPS


def _up(amount: int, step: int) -> int:
    return -(-amount // step) * step


def measure(chosen: Iterable[Program], cards: Iterable[Card] = CARDS) -> list[Figures]:
    """Compile programs for every card, in as many processes as there are cores."""
    tasks = [(program, card) for program in chosen for card in cards]
    # The slowest first, so that no core is left alone with one at the end.
    order = sorted(range(len(tasks)), key=lambda i: tasks[i][0].constants.get("BLOCK", 0), reverse=True)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), without_interpreter) as pool:
        running = {i: pool.submit(_measure, *tasks[i]) for i in order}
        console = Console(stderr=True)
        for done in track(as_completed(running.values()), "compiling", len(running), console=console, transient=True):
            done.result()
        return [running[i].result() for i in range(len(tasks))]


def without_interpreter() -> None:
    """Prepare a process: kernels defined while this variable is set cannot be compiled."""
    os.environ.pop("TRITON_INTERPRET", None)


def _measure(program: Program, card: Card) -> Figures:
    found = [_needs(compile_variant(program, card, known)) for known in program.variants]
    registers, shared, spilled = (max(figures) for figures in zip(*found, strict=True))
    active = occupancy(registers, shared, program.warps, card)
    target = f"sm_{card.target}"
    return Figures(program.name, target, program.shape, registers, shared, spilled, program.warps, active)


def compile_variant(program: Program, card: Card, known: dict[str, int]) -> Any:
    """Triton's compiled kernel; only in a process that imported Triton without TRITON_INTERPRET."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(import_module(program.module), program.function)
    constants = program.constants | {name: 1 for name, value in known.items() if value == 1}
    signature = {name: "constexpr" if name in constants else kind for name, kind in program.types.items()}
    multiples = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if known.get(name) == 16
    }
    source = ASTSource(kernel, signature, constants, multiples)
    options = {"num_warps": program.warps, "maxnreg": program.most_registers}
    return triton.compile(source, target=GPUTarget("cuda", card.target, 32), options=options)


def _needs(made: Any) -> tuple[int, int, int]:
    """Registers of a thread, bytes of shared memory of a program, bytes that a thread spills."""
    import triton

    with NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(made.asm["cubin"])
        binary.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", binary.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # The stack of a thread holds spilled registers alone: kernels call no functions and keep no arrays there.
    registers, stack = (int(found) for found in re.findall(r"\b(?:REG|STACK):(\d+)", usage))
    return registers, made.metadata.shared, stack


def table(found: Iterable[Figures]) -> Table:
    """The figures as a table that prints as Markdown."""
    columns = ("kernel", "target", "shape", "warps", "registers", "shared B", "spilled B", "occupancy")
    result = Table(*columns, box=MARKDOWN)
    for f in found:
        numbers = (f"{f.warps}", f"{f.registers}", f"{f.shared_bytes:,}", f"{f.spill_bytes}", f"{f.occupancy:.0%}")
        result.add_row(f.name, f.target, f.shape, *numbers)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 1 a program spills, 2 the file cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    try:
        if options.json:
            options.json.open("a").close()  # to fail now, rather than after minutes of compiling
    except OSError as error:
        return _refused(options.json, error)
    found = measure(programs())
    print(f"Triton {version('triton')}; " + ", ".join(f"sm_{card.target} is {card.name}" for card in CARDS))
    Console(width=WIDTH).print(table(found))
    try:
        if options.json:
            options.json.write_text(json.dumps({"kernels": [asdict(figures) for figures in found]}, indent=1) + "\n")
    except OSError as error:
        return _refused(options.json, error)
    spilling = [figures for figures in found if figures.spill_bytes]
    for figures in spilling:
        where = f"{figures.name}, {figures.shape}, {figures.target}"
        print(f"failed: {where}: {figures.spill_bytes} bytes of a thread are spilled", file=sys.stderr)
    return int(bool(spilling))


def _refused(path: Path, error: OSError) -> int:
    print(f"error: {path}: cannot be written ({error.strerror}). Give another file", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
