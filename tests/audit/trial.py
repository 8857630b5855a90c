"""One planted fault, or one clean panel, audited. A module of its own, so that other processes can import it."""

import tempfile
from pathlib import Path

from engine.audit.audit import audit_cache
from tests.audit.clean import STYLES
from tests.audit.faults.every import FAULTS
from tests.audit.faults.fault import Dose
from tests.audit.faults.scores import audit_of, honest
from tests.audit.market import Style, clean_market, write_market


def is_caught(task: tuple[str, Dose, int]) -> bool:
    """Whether the fault of a name, dose and seed is caught."""
    name, dose, seed = task
    fault = next(each for each in FAULTS if each.name == name)
    with tempfile.TemporaryDirectory() as folder:
        return fault.is_caught(fault.audit(Path(folder), fault.doses[dose], seed))


def alarms(panel: tuple[str, Style, int]) -> list[str]:
    """What the checks have against a clean panel, a line each."""
    name, _, seed = panel
    with tempfile.TemporaryDirectory() as folder:
        market = clean_market(seed, STYLES[name])
        found = list(audit_cache(write_market(market, Path(folder) / "cache")))
        found += audit_of(Path(folder) / "scored", market, honest(market, seed))
    return [str(each) for each in found if each.verdict in ("warned", "failed")]
