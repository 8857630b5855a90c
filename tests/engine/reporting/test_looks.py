"""The ledger of looks: what is one, who counts, two writers, a line that a kill has cut, a place that is read-only."""

import json
import multiprocessing

import pytest

from engine.evaluation.evaluate import evaluate
from engine.reporting import looks
from engine.reporting.looks import Look, count_at, ledger_of, look_of, record, told_once


def look(what="a", first="2020-01-01", last="2020-03-31", **more):
    return Look("evaluate", what, first, last, 60, {"1": 0.1}, "cafe", **more)


def test_overlapping_days_are_counted_and_others_are_not(tmp_path):
    cache = tmp_path / "cache"
    assert (record(cache, look()).number, record(cache, look("b")).number) == (1, 2)
    assert record(cache, look(first="2020-04-01", last="2020-04-30")).number == 1
    third = record(cache, look("b", first="2020-03-31", last="2020-04-01"))
    assert (third.number, third.models, third.ledger) == (4, 2, tmp_path / "cache.looks.jsonl")
    assert (count_at(cache, "2020-01-15", "2020-01-16").number, count_at(cache, "2021-01-01", "2021-02-01").number) == (
        2,
        0,
    )
    lines = [json.loads(line) for line in ledger_of(cache).read_text().splitlines()]
    assert [line["what"] for line in lines] == ["a", "b", "a", "b"]
    assert lines[0].keys() == {"command", "what", "first", "last", "days", "rank_ic", "cache", "when"}


def test_one_run_is_one_model_under_any_name(tmp_path):
    counts = [record(tmp_path / "c", look(what, run="r1")) for what in ("runs/a", "a.parquet")]
    assert [(count.number, count.models) for count in counts] == [(1, 1), (2, 1)]
    assert str(counts[1]).startswith("look number 2 at these days, at one model")


def test_two_names_of_a_folder_share_a_ledger(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    record(tmp_path / "link", look())
    assert record(tmp_path / "real", look()).number == 2


def test_a_line_that_was_cut_is_skipped_and_takes_no_other_with_it(tmp_path):
    record(tmp_path / "c", look())
    with ledger_of(tmp_path / "c").open("a") as file:
        file.write('{"command": "evaluate", "wh')  # killed here
    assert record(tmp_path / "c", look("b")).number == 2
    with ledger_of(tmp_path / "c").open("a") as file:
        file.write('[1, 2]\n{"unknown": 1}\n\n')
    assert [each.what for each in looks.read_looks(tmp_path / "c")[0]] == ["a", "b"]


@pytest.mark.parametrize(
    "days", [("2020-02-30", "2020-03-31"), ("2020-03-31", "2020-02-01"), ("", ""), ("2020", "2021")]
)
def test_a_look_at_days_that_are_none_is_not_counted(days, tmp_path):
    record(tmp_path / "c", look())
    record(tmp_path / "c", look("b", first=days[0], last=days[1]))
    every, unread = looks.read_looks(tmp_path / "c")
    assert [each.what for each in every] == ["a"]
    assert unread.startswith("1 line of")


def write_many(cache, name, count):
    for i in range(count):
        record(cache, look(f"{name}-{i}" + "x" * 500))


def test_two_writers_lose_no_line(tmp_path):
    processes = multiprocessing.get_context("fork")
    writers = [processes.Process(target=write_many, args=(tmp_path / "c", name, 60)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [json.loads(line) for line in ledger_of(tmp_path / "c").read_text().splitlines() if line]
    assert sorted(line["what"].rstrip("x") for line in lines) == sorted(f"{n}-{i}" for n in "ab" for i in range(60))


def test_a_place_that_cannot_be_written_is_told_once(tmp_path):
    ledger_of(tmp_path / "c").mkdir()  # of any user, root too: a folder is no file to append to
    counts = [record(tmp_path / "c", look()) for _ in range(2)]
    assert [count.number for count in counts] == [1, 1]
    said = [told_once(count) for count in counts]
    assert said[0] is not None
    assert "c.looks.jsonl cannot be written" in said[0]
    assert said[1] is None


def test_training_and_validation_days_are_no_look():
    days, metrics = {"first": "2020-01-01", "last": "2020-02-01", "days": 20}, {"1": {"rank_ic": 0.1}}
    assert look_of("evaluate", ["r"], "valid", days, metrics, "c") is None
    assert look_of("evaluate", ["r"], "train", days, metrics, "c") is None
    assert look_of("evaluate", ["r"], "span", days, metrics, "c").rank_ic == {"1": 0.1}


@pytest.fixture
def own_ledger(monkeypatch, tmp_path):
    """A ledger of the test's own: other tests evaluate the shared run too."""
    monkeypatch.setattr(looks, "ledger_of", lambda cache: tmp_path / "looks.jsonl")
    return tmp_path / "looks.jsonl"


def test_evaluate_counts_its_looks_at_the_test(small_run, own_ledger, run_command):
    first = evaluate([small_run], "test", None, None)
    assert (first["look"]["number"], first["look"]["models"]) == (1, 1)
    assert evaluate([small_run], "valid", None, None)["look"] is None
    code, out, _ = run_command("evaluate", small_run)
    assert (code, "look number 2 at these days, at one model" in out) == (0, True)
    (a, b) = [json.loads(line) for line in own_ledger.read_text().splitlines()]
    summary = json.loads((small_run / "summary.json").read_text())
    assert (a["run"], a["config"], a["cache"]) == tuple(summary[key] for key in ("run_id", "config_hash", "cache_id"))
    assert a["rank_ic"] == {h: metrics["rank_ic"] for h, metrics in first["splits"]["test"].items()}
    assert (a["first"], a["last"]) == (summary["days"]["test"]["first"], summary["days"]["test"]["last"])
    assert (b["what"], b["command"]) == (str(small_run), "evaluate")


def test_a_baseline_is_a_look(small_cache, own_ledger, run_command):
    code, out, _ = run_command("baseline", "--arrow", small_cache, "--kind", "reversal")
    assert (code, "look number 1 at these days" in out) == (0, True)
    assert json.loads(own_ledger.read_text())["command"] == "baseline"
