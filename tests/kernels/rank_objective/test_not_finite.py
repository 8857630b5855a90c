"""NaN and infinite entries: every row of the table in docs/kernels.md, on every face."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.rank_terms import TERMS, rank_terms
from tests.kernels.faces import CUDA, NUMBA, SHIPPED, TRITON, block, evaluated, only, stacked

PAGE = Path(__file__).parents[3] / "docs" / "kernels.md"
HEADER = "| entry | labels | terms that are not finite | gradient of its cross-section is NaN | of its horizon |"
H, G, N = 2, 2, 6
AT = (1, 0, 2)  # of the entry
SHORT = TRITON if CUDA else replace(TRITON, lengths={"TILE": 4, "SHORTEST": 8})  # two tiles, for the slow interpreter
fused_faces = pytest.mark.parametrize("face", [NUMBA, SHORT, *([SHIPPED] if CUDA else [])], ids=str)
# numpy's, of NaN and of infinity less infinity, where the interpreter meets them on purpose
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def named(cell):
    """The terms of a cell: all, none, all but some, or some."""
    names = set(re.findall("`([a-z_]+)`", cell))
    if cell.startswith(("all", "none")):
        return set(TERMS) - names if cell.startswith("all") else set()
    return names


def rows():
    """Name of the entry, value, ranked, and three sets of terms for every row, value and kind of labels."""
    lines = PAGE.read_text().split(HEADER)[1].split("\n\n")[0].strip().splitlines()[1:]
    for line in lines:
        entry, labels, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        name, values = entry.split(": ")
        for value in values.split(", "):
            for ranked in {"any": (True, False), "ranks": (True,), "targets": (False,)}[labels]:
                yield name, float(value), ranked, *map(named, cells)


ROWS = list(rows())
KINDS = ("name", "value", "ranked", "terms", "of_section", "of_horizon")


def of(face, row):
    return pytest.param(face, *row, id=f"{face}-{row[0]}-{row[1]}-{'ranks' if row[2] else 'targets'}")


# The interpreter takes seconds for a row: one of those that differ in their value or labels alone.
FIRST = list(
    {(name, *map(frozenset, sets)): (name, value, ranked, *sets) for name, value, ranked, *sets in ROWS}.values()
)
OF_FACES = [
    of(face, row)
    for face in (NUMBA, SHORT, *([SHIPPED] if CUDA else []))
    for row in (FIRST if face is SHORT and not CUDA else ROWS)
]


def unspoilt(name, ranked):
    """A block with as many valid entries as a row says."""
    asked = block(1, horizons=H, days=G, names=N, missing=0.0, rotations=(2,), ranked=ranked)
    if name.startswith("anything"):
        asked.mask[AT] = False
    if name.startswith("the only"):
        asked.mask[AT[:2]] = torch.arange(N) == AT[2]
    return asked


def spoilt(name, value, ranked):
    """A block with the entry of a row."""
    asked = unspoilt(name, ranked)
    arrays = {"score": "scores", "target": "targets", "return": "returns", "quantile": "quantiles"}
    changed = {}
    for array in [arrays[name]] if name in arrays else arrays.values():
        changed[array] = getattr(asked, array).clone()
        changed[array][AT] = value
    return asked.but(**changed)


def of_each_term(face, asked):
    """The outcome of each term alone: as members, so that one call serves all."""
    return evaluated(face, stacked(*(asked.but(weights=only(term)) for term in TERMS)))


@cache
def clean_outcome(face, name, ranked):
    return of_each_term(face, unspoilt(name, ranked))


def test_the_table_is_whole():
    assert len(ROWS) == 6 + 2 + 2 + 2 + 6 + 6 + 6 + 6


@pytest.mark.parametrize(("face", *KINDS), OF_FACES)
def test_a_row(face, name, value, ranked, terms, of_section, of_horizon):
    given, kind = spoilt(name, value, ranked), name if " " in name else "all are valid"
    found, clean = of_each_term(face, given), clean_outcome(face, kind, ranked)
    for k, term in enumerate(TERMS):
        loss, (own, same_day, other_day, other) = found.loss[k], (
            found.by_scores[k, 1, 0], found.by_scores[k, 0, 0], found.by_scores[k, 1, 1], found.by_scores[k, 0, 1]
        )  # fmt: skip
        assert np.isfinite(loss) == (term not in terms), term
        assert found.terms[k, k] == pytest.approx(loss, rel=1e-6, nan_ok=True), term
        assert np.isnan(loss) or term not in terms or (name, abs(value)) == ("quantile", np.inf), term
        valid = given.mask[1, 0].numpy()
        assert np.isnan(own[valid]).all() if term in of_section else np.isfinite(own).all(), term
        assert not own[~valid].any(), term
        assert np.isfinite(found.by_quantiles[k]).all(), term
        for ours, theirs in ((same_day, clean.by_scores[k, 0, 0]), (other, clean.by_scores[k, 0, 1])):
            np.testing.assert_array_equal(ours, theirs, err_msg=term)
        if term in of_horizon:
            assert np.isnan(other_day).all(), term
        elif term != "sharpe":
            np.testing.assert_array_equal(other_day, clean.by_scores[k, 1, 1], err_msg=term)
    if name.startswith(("anything", "the only")):
        for field, expected in vars(clean).items():
            np.testing.assert_array_equal(getattr(found, field), expected, err_msg=field)


@pytest.mark.parametrize(KINDS, ROWS)
def test_a_row_in_plain_torch(name, value, ranked, terms, of_section, of_horizon):
    given = spoilt(name, value, ranked)
    found = rank_terms(
        given.scores, given.targets, given.returns, given.mask, TERMS, quantiles=given.quantiles, levels=given.levels,
        rotations=given.rotations, tau=given.tau, temperature=given.temperature, ranked=ranked,
    )  # fmt: skip
    for term in TERMS:
        assert bool(found[term][1, 0].isfinite()) == (term not in terms), term
        assert found[term][0].isfinite().all(), term


@fused_faces
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -0x00400000, -1], ids=hex)
def test_a_nan_of_any_bits_keeps_its_place(face, bits):
    """Behind entries that are not valid, which a sort puts last: hardware makes NaN of bits of its own."""
    asked = block(2, days=2, names=9, missing=0.0)
    asked.mask[:, :, :4] = False
    nan = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    for array in (asked.scores, asked.targets):
        array[0, 0, 5] = array[0, 0, 7] = nan
    found = evaluated(face, asked.but(weights=only("rank_ic", "ic", "listnet")))
    assert np.isnan(found.loss)
    np.testing.assert_array_equal(np.isnan(found.by_scores[0, 0]), np.arange(9) >= 4)
    assert not found.by_scores[0, 0, :4].any()
    assert np.isfinite(found.by_scores[0, 1]).all()
