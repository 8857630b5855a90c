"""`atft-engine audit`: its table, its JSON and its exit codes."""

import json

import numpy as np
import pytest

from engine.audit.finding import Advice, failed, passed, skipped, warned
from engine.audit.table import findings_table
from engine.screen.console import make_console
from tests.audit.market import PLAIN, clean_market, write_market

WHY, CURE = "It matters since " + "a figure that is wrong is worse than none " * 4, "Leave it " + "out " * 40
ADVICE = Advice("a check", WHY, CURE)


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """A sound market's cache, and one whose feature is the label."""
    folder, market = tmp_path_factory.mktemp("audit"), clean_market(3, PLAIN)
    write_market(market, folder / "sound")
    write_market(market.with_feature("leak", np.nan_to_num(market.labels[1])), folder / "leaking")
    return folder


def test_a_sound_cache_passes(caches, run_command):
    code, out, err = run_command("audit", caches / "sound")
    assert (code, err) == (0, "")
    assert "failed" not in out
    assert "warned" not in out
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines()[1:])  # below the path


def test_a_check_that_fails_ends_with_exit_code_1_and_its_name(caches, run_command):
    code, out, err = run_command("audit", caches / "leaking")
    assert (code, err.count("\n")) == (1, 1)
    assert err.endswith("leaking: features: lag profile\n")
    assert "leak (h=1: +1.00" in out


def test_json_holds_all_that_is_concerned(caches, run_command):
    code, out, _ = run_command("audit", caches / "leaking", "--json")
    found = {each["check"]: each for each in json.loads(out)}
    assert code == 1
    assert found["features: lag profile"]["verdict"] == "failed"
    assert found["features: lag profile"]["concerned"][0].startswith("leak ")
    assert set(found["exits"]) == {"check", "verdict", "figure", "concerned", "why", "cure"}


def test_the_table_explains_what_did_not_pass_and_cuts_nothing():
    console = make_console()
    names = [f"code {i}" for i in range(9)]
    every = [passed(ADVICE, "fine"), skipped(ADVICE, "no bars"), warned(ADVICE, "odd", names), failed(ADVICE, "wrong")]
    with console.capture() as captured:
        console.print(findings_table("title", every))
    lines = captured.get().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    told = " ".join(" ".join(lines).split())
    assert told.count(" ".join(WHY.split())) == told.count(" ".join(CURE.split())) == 2
    assert "code 0, code 1, code 2, code 3, code 4 and 4 more" in told
    assert told.endswith("1 passed, 1 warned, 1 failed, 1 skipped")


def test_what_is_not_there_is_refused(caches, run_command):
    code, _, err = run_command("audit", caches / "sound", caches / "none")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = run_command("audit", caches / "sound", "--rebuild", "true")
    assert (code, err.count("\n")) == (2, 1)


def test_a_damaged_source_is_refused(tmp_path, run_command):
    """Checks of closes read what the cache keeps of its source, which no other command does."""
    market = clean_market(3, PLAIN)
    write_market(market, tmp_path / "cache")
    source = tmp_path / "cache" / "source.arrow"
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    source.write_bytes(content)
    for more in ([], ["--truncation"]):
        code, out, err = run_command("audit", tmp_path / "cache", *more)
        assert (code, out.strip(), err.count("\n")) == (2, "", 1)
        assert "source.arrow: checksum differs in chunk 0" in err


def test_a_training_tells_what_the_quickest_checks_find(tmp_path):
    from engine.audit.quick import quick_findings

    market = clean_market(4, PLAIN)
    clipped = {h: np.clip(each, -0.01, 0.01) for h, each in market.labels.items()}
    panel = write_market(market.with_labels(clipped), tmp_path / "clipped")
    (finding,) = quick_findings(panel)
    assert str(finding).startswith("labels: clipping warned: h=1:")
    assert quick_findings(write_market(market, tmp_path / "sound")) == []
