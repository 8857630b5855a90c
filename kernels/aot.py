"""Compile every Triton kernel for A100 and H100 without a GPU, and tell what each asks of one: python -m kernels.aot.

Registers and spills are read from the binary that a launch would load. Bytes and operations are counted, and the times
follow from them and from the cards' published figures: bounds that no kernel passes, not measurements.

N entries of a cross-section, H horizons, Q quantile levels, K rotations
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from rich.console import Console
from rich.progress import track

from kernels import limits

# The module is imported by the processes that compile before they are ready to define kernels: no triton up here.

SIZES = (512, 1024, 2048, 4096, 8192)  # N of the programs that sort
LEVELS, ROTATIONS = 3, 16  # Q and K of the figures of the objective, as in training

# The type of every argument by its name: a name means the same in all kernels.
ARGUMENTS = {
    **dict.fromkeys(
        (
            "a", "b", "both", "dz", "gradient", "gradient_q", "hard", "horizon_weights", "inverse_at", "levels",
            "loss", "quantiles", "ranks", "returns", "room", "scores", "soft", "statistics", "targets", "tau_at",
            "temperature_at", "terms", "upstream", "values", "weights", "x", "y", "z_sorted",
        ),
        "*fp32",
    ),
    "correlation": "*fp64",
    "mask": "*i1",
    "presence": "*u8",
    **dict.fromkeys(("ended", "order", "rotations"), "*i32"),
    **dict.fromkeys(("address", "codes", "days", "first", "presence_at", "targets_at", "words"), "*i64"),
    **dict.fromkeys(
        (
            "begin", "context", "horizons", "levels_count", "scored", "sections", "shifts", "size", "span", "start_day",
            "stop_day", "width",
        ),
        "i32",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """A GPU by its published figures, dense and without tensor cores."""

    name: str
    target: int  # compute capability, 80 for sm_80
    bytes_per_s: float
    operations_per_s: float  # float32
    shared_bytes: int  # of a multiprocessor


A100 = Card("A100 80GB SXM", 80, 2039e9, 19.5e12, 164 * 1024)
H100 = Card("H100 SXM", 90, 3350e9, 67e12, 228 * 1024)
CARDS = (A100, H100)

# Of a multiprocessor, the same on both cards.
MOST_WARPS, MOST_PROGRAMS = 64, 32
PARTS, REGISTERS_OF_PART, REGISTERS_STEP = 4, 16384, 256  # registers are given to a warp in steps, from one of 4 parts
SHARED_STEP, SHARED_TAKEN = 128, 1024  # bytes; the driver takes some for every program


@dataclass(frozen=True)
class Program:
    """A kernel with the constants and warps of a launch.

    Args:
        module, function: where the kernel is.
        shape: what it is launched for, in words.
        constants: its constexpr arguments.
        warps: of 32 threads.
        bytes: that it has to move: inputs read once, results written once, no room to work in.
        operations: compare-exchanges of the sort, and for every entry the additions, multiplications, comparisons,
            divisions and functions that the source has in its walks, one each.
        ones: integer arguments that may be 1.
    """

    module: str
    function: str
    shape: str
    constants: dict[str, int]
    warps: int
    bytes: int
    operations: int
    ones: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as soft_rank._forward."""
        return f"{self.module.rpartition('.')[2]}.{self.function}"


@dataclass(frozen=True)
class Figures:
    """What a program takes on a target; of the variants that launches make of it, the worst.

    Args:
        target: such as sm_80.
        registers: of a thread.
        shared_bytes: of a program.
        spill_bytes: of a thread, kept in memory because registers did not hold them.
        occupancy: warps that a multiprocessor holds at a time, of those that it could.
        bytes, operations: see Program.
        bound_us: microseconds for these with the whole card at work, whichever of the two takes longer.
    """

    name: str
    target: str
    shape: str
    registers: int
    shared_bytes: int
    spill_bytes: int
    warps: int
    occupancy: float
    bytes: int
    operations: int
    bound_us: float


def programs() -> list[Program]:
    """Every kernel of the package at its default shapes."""
    return [*_sorts(), *_walks(), *_gathers()]


def _sorts() -> list[Program]:
    """Kernels that sort, at every size."""
    found = []
    for module, function, sorts, entry_bytes, walks in (
        # Scores and mask; ranks, order, z, below + above. Moments 5, standardised 2, recurrences 20, from the middle 1.
        ("soft_rank", "_forward", 1, 5 + 16, 28),
        # Scores, targets, returns, mask; hard ranks, order, z. Moments twice 5, ranks 7, standardised 2, statistics 6.
        ("rank_objective", "_prepare", 2, 13 + 12, 25),
        # Values, mask; ranks. Number 1, ranks 7.
        ("correlation", "_ranks", 1, 5 + 4, 8),
    ):
        for n in SIZES:
            steps = n.bit_length() - 1
            exchanges = n // 2 * steps * (steps + 1) // 2
            constants = {"BLOCK": n, "TILE": limits.tile_of(n)}
            operations = sorts * exchanges + walks * n
            found.append(
                Program(
                    f"kernels.cuda.{module}", function, f"N={n}", constants, limits.warps_of(n), entry_bytes * n,
                    operations,
                )
            )  # fmt: skip
    return found


def _walks() -> list[Program]:
    """Kernels that only walk: one program for every N, its figures those of the longest that is sorted."""
    n, tile, shape = limits.LONGEST, {"TILE": limits.TILE}, f"any N ({limits.LONGEST})"
    # Upstream, mask, order, z, below + above; gradient. Number 1, recurrences 22, means 3, gradient 4.
    backward = Program(
        "kernels.cuda.soft_rank", "_backward", shape, tile, limits.TILE_WARPS, (17 + 4) * n, 30 * n
    )  # fmt: skip
    # Scores, targets, returns, mask, order, z, hard ranks; gradient; quantiles and their gradient. Moments twice 5,
    # soft ranks 20 and back 22, sums 33, mixed 10, means 3, gradient 22; 8 a level, 23 a rotation.
    entry_bytes, entry_operations = 25 + 4 + 8 * LEVELS, 120 + 8 * LEVELS + 23 * ROTATIONS
    terms = [
        Program(
            "kernels.cuda.rank_objective", "_terms", f"{shape}, {'ranked' if ranked else 'not ranked'}",
            {"RANKED": ranked, **tile}, limits.TILE_WARPS, entry_bytes * n, entry_operations * n,
            ones=("horizons", "sections", "levels_count", "shifts"),
        )
        for ranked in (True, False)
    ]  # fmt: skip
    # Two arrays, mask. Sums and ranges 7, moments 8: of float64, which is slower, so that the bound holds.
    correlate = Program("kernels.cuda.correlation", "_correlate", shape, tile, limits.TILE_WARPS, 9 * n, 15 * n)
    return [backward, *terms, correlate]


def _gathers() -> list[Program]:
    """The gather of blocks, whose programs each copy a piece of one code's rows; nothing to compute but addresses."""
    from kernels.block_gather import CHUNK

    features = [
        Program(
            "kernels.block_gather", "_gather_features", f"{CHUNK} values of {'float16' if half else 'float32'}",
            {"HALF": half, "CHUNK": CHUNK}, 8, ((2 if half else 4) + 4) * CHUNK, 0, ones=("begin", "span", "width"),
        )
        for half in (True, False)
    ]  # fmt: skip
    days, horizons = 128, 2
    labels = Program(
        "kernels.block_gather", "_gather_labels", f"{days} days, H={horizons}", {"DAYS": days, "WIDTH": horizons}, 4,
        (2 + 8 * horizons) * days, 0, ones=("begin", "span", "context", "horizons"),
    )  # fmt: skip
    return [*features, labels]


def occupancy(registers: int, shared_bytes: int, warps: int, card: Card) -> float:
    """Warps of as many such programs as a multiprocessor holds at a time, of those it could hold; 0 where none fits."""
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
    # The longest first, so that no core is left alone with one at the end.
    order = sorted(range(len(tasks)), key=lambda i: tasks[i][0].constants.get("BLOCK", 0), reverse=True)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _compile_here) as pool:
        running = {i: pool.submit(_measure, *tasks[i]) for i in order}
        console = Console(stderr=True)
        for done in track(as_completed(running.values()), "compiling", len(running), console=console, transient=True):
            done.result()
        return [running[i].result() for i in range(len(tasks))]


def _compile_here() -> None:
    """Prepare a process: kernels that are defined with this variable set cannot be compiled."""
    os.environ.pop("TRITON_INTERPRET", None)


def _measure(program: Program, card: Card) -> Figures:
    kernel = getattr(import_module(program.module), program.function)
    arguments = [name for name in kernel.arg_names if name not in program.constants]
    # What a launch knows of its arguments changes the program: it turns an integer that is 1 into a constant, and takes
    # multiples of 16, 0 among them, for that.
    variants: list[dict[str, int]] = [{}, dict.fromkeys(arguments, 16)]
    if program.ones:
        variants.append(dict.fromkeys(program.ones, 1))
    found = [_compile(kernel, program, card, known) for known in variants]
    return Figures(
        name=program.name,
        target=f"sm_{card.target}",
        shape=program.shape,
        registers=max(registers for registers, _, _ in found),
        shared_bytes=max(shared for _, shared, _ in found),
        spill_bytes=max(spilled for _, _, spilled in found),
        warps=program.warps,
        occupancy=min(occupancy(registers, shared, program.warps, card) for registers, shared, _ in found),
        bytes=program.bytes,
        operations=program.operations,
        bound_us=1e6 * max(program.bytes / card.bytes_per_s, program.operations / card.operations_per_s),
    )


def _compile(kernel: Any, program: Program, card: Card, known: dict[str, int]) -> tuple[int, int, int]:
    """Registers of a thread, bytes of shared memory, bytes that a thread spills."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = program.constants | {name: 1 for name, value in known.items() if value == 1}
    signature = {name: "constexpr" if name in constants else ARGUMENTS[name] for name in kernel.arg_names}
    multiples = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if known.get(name) == 16
    }
    source = ASTSource(kernel, signature, constants, multiples)
    made = triton.compile(source, target=GPUTarget("cuda", card.target, 32), options={"num_warps": program.warps})
    with NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(made.asm["cubin"])
        binary.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", binary.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Nothing but spilled registers is on the stack of a thread: kernels call no functions and keep no arrays there.
    registers, stack = (int(found) for found in re.findall(r"\b(?:REG|STACK):(\d+)", usage))
    return registers, made.metadata.shared, stack


COLUMNS = {
    "kernel": "name",
    "target": "target",
    "shape": "shape",
    "warps": "warps",
    "registers": "registers",
    "shared B": "shared_bytes",
    "spilled B": "spill_bytes",
    "occupancy": "occupancy",
    "bytes": "bytes",
    "operations": "operations",
    "bound µs": "bound_us",
}
TEXTS = 3  # columns that hold words
FORMATS = {"occupancy": "{:.0%}", "bytes": "{:,}", "operations": "{:,}", "shared_bytes": "{:,}", "bound_us": "{:.4f}"}


def table(found: Iterable[Figures]) -> str:
    """The figures as Markdown, in columns."""
    rows = [
        [FORMATS.get(field, "{}").format(getattr(figures, field)) for field in COLUMNS.values()] for figures in found
    ]
    widths = [max(len(cell) for cell in column) for column in zip(COLUMNS, *rows, strict=True)]
    rule = ["-" * width if i < TEXTS else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(_line(cells, widths) for cells in ([*COLUMNS], rule, *rows))


def _line(cells: list[str], widths: list[int]) -> str:
    padded = [
        cell.ljust(width) if i < TEXTS else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit code: 0 done, 1 a program spills, 2 the file cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    try:
        if options.json:
            options.json.open("a").close()  # to say now, and not in some minutes, that it cannot be written
    except OSError as error:
        return _refused(options.json, error)
    found = measure(programs())
    print(f"Triton {version('triton')}; " + ", ".join(f"sm_{card.target} is {card.name}" for card in CARDS))
    print(f"\n{table(found)}")
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
