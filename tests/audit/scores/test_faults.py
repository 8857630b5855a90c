"""Each check catches a strong dose of its fault, by name, and passes clean scores."""

import pytest

from engine.audit.checks import SCORES
from tests.audit.faults import scores


@pytest.fixture(autouse=True)
def small_market(market, monkeypatch):
    monkeypatch.setattr(scores, "clean_market", lambda seed, style=None: market)


@pytest.mark.parametrize("fault", scores.FAULTS_OF_SCORES, ids=lambda fault: fault.name)
def test_a_strong_dose_is_caught(fault, tmp_path):
    found = fault.audit(tmp_path, fault.doses["strong"], 1)
    assert fault.is_caught(found), [f"{each.advice.check}: {each.figure}" for each in found]


@pytest.mark.parametrize("kind", range(4))
def test_clean_scores_pass(kind, panel, market, beside):
    columns = [market.codes.index(name) for name in panel.manifest.codes]
    scored = beside(panel, scores.honest(market, kind)[:, columns])
    found = [check(scored) for check in SCORES]
    assert {each.verdict for each in found} == {"passed"}, [each.figure for each in found]
