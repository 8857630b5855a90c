"""A small clean market that tests share, and scores beside its cache."""

from dataclasses import replace

import numpy as np
import pytest

from engine.audit.scores.scored import scored_cache
from engine.evaluation.sources import source_of
from engine.score.rows import RowScores
from loaders.cache.format import ABSENT
from tests.audit.market import PLAIN, clean_market, write_market

STYLE = replace(PLAIN, codes=80, days=400, alpha=0.08)


@pytest.fixture(scope="session")
def market():
    return clean_market(3, STYLE)


@pytest.fixture(scope="session")
def panel(market, tmp_path_factory):
    return write_market(market, tmp_path_factory.mktemp("market") / "cache")


@pytest.fixture
def beside(tmp_path):
    """beside(market or panel, scores [T, S], ...): the scores beside their cache."""

    def make(where, scores, *, start=0, **about):
        if hasattr(where, "bars"):
            codes, where = where.codes, write_market(where, tmp_path / f"cache{len(list(tmp_path.iterdir()))}")
        else:
            codes = where.manifest.codes
        rows = np.concatenate([first + np.arange(days) for first, days in zip(where.offset, where.days, strict=True)])
        rows = rows[where.presence[rows] != ABSENT]
        code = where.code_of(rows)
        day = rows - where.offset[code] + where.first[code]
        place = {name: s for s, name in enumerate(codes)}
        values = scores[day, [place[where.manifest.codes[c]] for c in code]].astype(np.float32)
        keep = np.isfinite(values) & (day >= start)
        columns = {h: values[keep] for h in where.manifest.horizons}
        return scored_cache(where, source_of("scores", RowScores(rows[keep], columns, "test", **about), [], where))

    return make
