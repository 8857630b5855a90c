"""No check of features and labels raises on a cache that is valid and odd."""

from dataclasses import replace

import numpy as np
import pytest

from engine.audit.checks import FEATURES, LABELS
from engine.audit.sample import sample_of
from loaders.panel import open_panel
from tests.audit.market import Style, clean_market, write_market
from tests.audit.samples import sample, with_manifest

TINY = Style(codes=40, days=150)


def _constant(market):
    return replace(market, features={name: np.where(market.listed, 1.0, np.nan) for name in market.features})


def _no_labels(market):
    return market.with_labels({h: np.full_like(y, np.nan) for h, y in market.labels.items()})


def _constant_labels(market):
    return market.with_labels({h: np.zeros_like(y) for h, y in market.labels.items()})


def _no_universe(market):
    return replace(market, scored=np.zeros_like(market.scored))


ODD = {
    "few codes": lambda folder: sample(folder, style=Style(codes=2, days=150)),
    "few days": lambda folder: sample(folder, style=Style(codes=40, days=6)),
    "one horizon": lambda folder: sample(folder, style=Style(codes=40, days=150, horizons=(5,))),
    "horizons that do not divide": lambda folder: sample(folder, style=Style(codes=40, days=150, horizons=(2, 5))),
    "no horizon": lambda folder: with_manifest(sample(folder, style=TINY), horizons=[], targets=[]),
    "no bars": lambda folder: with_manifest(sample(folder, style=TINY), built_from=None),
    "constant features": lambda folder: sample(folder, style=TINY, plant=_constant),
    "constant raw features": lambda folder: sample(folder, style=replace(TINY, transform="none"), plant=_constant),
    "labels missing": lambda folder: sample(folder, style=TINY, plant=_no_labels),
    "labels constant": lambda folder: sample(folder, style=TINY, plant=_constant_labels),
    "nothing in the universe": lambda folder: sample(folder, style=TINY, plant=_no_universe),
}


@pytest.mark.parametrize("check", [*FEATURES, *LABELS], ids=lambda check: check.__name__)
@pytest.mark.parametrize("odd", ODD)
def test_no_check_raises(tmp_path, odd, check):
    assert check(ODD[odd](tmp_path)).verdict in ("passed", "skipped")


@pytest.mark.parametrize("check", [*FEATURES, *LABELS], ids=lambda check: check.__name__)
def test_shards_are_read(tmp_path, check):
    market = clean_market(1, TINY)
    for name, keep in (("a", np.arange(20)), ("b", np.arange(20, 40))):
        write_market(market.of_codes(keep), tmp_path / name)
    assert check(sample_of(open_panel(tmp_path))).verdict in ("passed", "skipped")
