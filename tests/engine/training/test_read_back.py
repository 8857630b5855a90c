"""What a run, folds, a study and a ledger hold is read back as it was written, or refused in one line."""

import json
import shutil

import pytest
from rich.console import Console

from engine.api.runs import Run
from engine.checkpoint import LAST, read_history
from engine.config_file import config_content, load_config
from engine.evaluation.evaluate import evaluate
from engine.reporting.looks import Look, count_at, ledger_of, read_looks, record
from engine.score.metrics import METRICS
from engine.score.predict import load_run
from engine.score.tables import find_summary, read_summary, write_summary
from engine.training.folds import fold_settings, train_folds
from engine.training.run import resumed_config
from loaders.disk.content import with_checksum
from loaders.errors import InputError
from tests.conftest import SMALL

QUIET = Console(quiet=True)
FIGURES = dict.fromkeys(METRICS, 0.5)
SUMMARY = {
    "run_id": "r", "cache_id": "c", "config_hash": "h", "device": "cpu", "epochs": 3, "best_epoch": 2,
    "days": {"test": {"first": "2010-01-04", "last": "2010-02-01", "days": 20}}, "notes": [],
    "splits": {"test": {"1": FIGURES | {"sharpe": float("nan")}}}, "periods_per_year": 252.0,
    "throughput": {"epoch_s": 1.0, "device_utilization": None},
}  # fmt: skip
DEEP = "[" * 100_000


def refused(call, *words):
    with pytest.raises(InputError) as refusal:
        call()
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) < 1000
    for word in words:
        assert word in text


def test_every_byte_of_a_summary_counts(tmp_path):
    said = write_summary(tmp_path, SUMMARY)
    assert said["splits"]["test"]["1"]["sharpe"] is None
    assert read_summary(tmp_path) == said == json.loads((tmp_path / "summary.json").read_text())
    content = (tmp_path / "summary.json").read_bytes()
    for place in range(len(content)):
        (tmp_path / "summary.json").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            found = find_summary(tmp_path)
        except InputError:
            continue
        assert found == said  # a blank
    (tmp_path / "summary.json").unlink()
    assert find_summary(tmp_path) is None
    refused(lambda: read_summary(tmp_path), "has no summary.json yet")


@pytest.mark.parametrize("text", [DEEP, "[]", "3", "{}", '{"a": NaN}', '{"a": 1e999}', '{"a": ' + "1" * 5000 + "}", ""])
def test_a_summary_of_any_kind_is_one_line(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    refused(lambda: find_summary(tmp_path), "summary.json", "--resume")


@pytest.mark.parametrize("name", list(SUMMARY))
def test_every_entry_of_a_summary_is_needed_and_checked(tmp_path, name):
    good = write_summary(tmp_path, SUMMARY)
    for content in ({key: value for key, value in good.items() if key != name}, good | {name: {"x": [1]}}):
        (tmp_path / "summary.json").write_text(json.dumps(with_checksum(content)))
        refused(lambda: find_summary(tmp_path), name)


def test_lines_of_validations_are_those_of_the_last_checkpoint(small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    path, lines = run / "metrics.jsonl", (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert read_history(run) == [json.loads(line) for line in lines]
    edited = json.dumps(json.loads(lines[1]) | {"valid_rank_ic": 0.9}) + "\n"
    for content, word in (
        ([lines[0], edited, lines[2]], "other lines than last"),
        (lines[:2], "other lines than last"),  # of a run that is finished
        ([lines[0], "{}\n"], "line 2: is damaged"),
        ([DEEP], "nested too deeply"),
    ):
        path.write_text("".join(content))
        refused(lambda: read_history(run), "metrics.jsonl", word)
        refused(lambda: Run.load(run).metrics, word)


def test_an_edited_configuration_of_a_run_is_refused(small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    text = (run / "config.toml").read_text()
    for old, new in (("epochs = 3", "epochs = 4"), ("context = 8", "context = 9"), ("seed = 0", "seed = 1")):
        assert old in text
        (run / "config.toml").write_text(text.replace(old, new))
        for call in (load_run, lambda run: resumed_config(run, [], None), Run.load):
            refused(lambda call=call: call(run), "config.toml", "remove the file's first line")
        (run / "config.toml").write_text(text.replace(old, new).partition("\n")[2])
        refused(lambda: load_run(run), "config.toml", "its settings are not those")
    moved = text.replace('arrow = "', 'arrow = "/elsewhere').partition("\n")[2]
    (run / "config.toml").write_text(moved)
    assert load_run(run).config.data.arrow.startswith("/elsewhere")  # where a cache lies may change


def test_a_written_configuration_is_found_damaged_and_may_be_edited(tmp_path):
    path, config = tmp_path / "best.toml", load_config(None, [*SMALL, "split.tuned_until=2014-12-03"])
    path.write_bytes(config_content(config))
    assert load_config(path, []) == config
    text = path.read_text()
    path.write_text(text.replace("2014", "2004"))
    refused(lambda: load_config(path, []), "best.toml", "its checksum differs", "remove the file's first line")
    path.write_text(text.replace("2014", "2004").partition("\n")[2])
    assert load_config(path, []).split.tuned_until == "2004-12-03"
    for content in (b"a = " + DEEP.encode(), b"a = " + b"1" * 5000, b"\xff\xfe", b"a = "):
        path.write_bytes(content)
        refused(lambda: load_config(path, []), "best.toml", "not a readable TOML file")


@pytest.fixture(scope="module")
def folds(small_cache, tmp_path_factory):
    settings = [*SMALL, "train.epochs=1", "train.blocks=4", "split.valid_fraction=0.15", "split.test_fraction=0.15"]
    config = load_config(None, [*settings, *fold_settings(2, False)], str(small_cache))
    return train_folds(config, tmp_path_factory.mktemp("folds") / "out", False, QUIET)


def test_folds_are_joined_and_evaluated_as_they_were_trained(folds, tmp_path):
    out = shutil.copytree(folds, tmp_path / "out")
    path = out / "fold-0" / "summary.json"
    good = path.read_text()
    figures = read_summary(out / "fold-0")["splits"]["test"]["1"]
    edited = good.replace(repr(figures["rank_ic"]), "0.99")
    assert edited != good
    for text, word in ((edited, "its checksum differs"), (good[:100], "not readable as JSON"), (DEEP, "too deeply")):
        path.write_text(text)
        resume = resumed_config(out, [], None)
        refused(lambda resume=resume: train_folds(resume, out, True, QUIET), "fold-0/summary.json", word)
        refused(lambda: evaluate([out], "test", None, None), "fold-0/summary.json", word)
    path.write_text(good)
    evaluate([out], "test", None, None)
    shutil.rmtree(out / "fold-1")
    refused(lambda: evaluate([out], "test", None, None), "which is not in fold-1")


def test_lines_of_a_ledger_that_cannot_be_read_are_counted_and_said(tmp_path):
    look = Look("evaluate", "a", "2020-01-01", "2020-03-31", 60, {"1": 0.1, "5": None}, "cafe")
    assert record(tmp_path / "c", look).notes == []
    with ledger_of(tmp_path / "c").open("a") as file:
        file.write(f'{{"command": 3}}\n{DEEP}\n\n[1]\n')
    count = record(tmp_path / "c", look)
    assert (count.number, len(read_looks(tmp_path / "c")[0])) == (2, 2)
    assert count.notes == [f"3 lines of {ledger_of(tmp_path / 'c')} cannot be read and are not counted"]
    ledger_of(tmp_path / "c").unlink()
    ledger_of(tmp_path / "c").mkdir()
    count = count_at(tmp_path / "c", "2020-01-01", "2020-01-02")
    why = "it is a folder, not a plain file"
    assert count.notes == [f"{ledger_of(tmp_path / 'c')} cannot be read ({why}): looks before this one are not counted"]


def test_a_checkpoint_of_another_state_of_the_run_is_refused(small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    best, last = (run / "checkpoints" / name for name in ("best.safetensors", LAST))
    best.write_bytes(last.read_bytes())
    refused(lambda: load_run(run), "best.safetensors", "kind 'last'")
