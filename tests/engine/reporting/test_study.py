"""The page of a study, from its files alone: trials, importance against a loop and its bias, and lists of settings."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

import engine
from engine.reporting.content import Missing
from engine.reporting.sections import study
from loaders.disk.parquet import table_content
from loaders.errors import InputError

pytest.importorskip("plotly", reason="the extra `report` is not installed")
pytest.importorskip("jinja2", reason="the extra `report` is not installed")


def written(folder, count=24, seed=0, **columns):
    """A study whose value rises with x, whatever y and the kind are; every fourth trial is pruned, the last failed."""
    rng = np.random.default_rng(seed)
    x, y = rng.random(count), rng.random(count)
    state = ["PRUNED" if i % 4 == 3 else "COMPLETE" for i in range(count)]
    state[-1] = "FAIL"
    value = [None if each == "FAIL" else float(v) for each, v in zip(state, x + 0.1 * rng.random(count), strict=True)]
    table = {
        "number": list(range(count)), "state": state, "value": value, "train.x": x.tolist(), "train.y": y.tolist(),
        "model.kind": [("<i>a</i>", "b")[i] for i in rng.integers(0, 2, count)],
        "objective.w": [[float(v), 1 - float(v)] for v in y], "epochs": [1 + i % 3 for i in range(count)],
        "seconds": [2.0] * count, "reason": [None] * count,
    }  # fmt: skip
    folder.mkdir()
    pq.write_table(pa.table(table | columns), folder / study.TRIALS)
    return folder


def test_the_page_of_a_study(tmp_path):
    folder = written(tmp_path / "s")
    (folder / study.BEST).write_text('[data]\narrow = "cache"\n[split]\ntuned_until = "2014-12-03"\n')
    text = engine.report(folder).read_text()
    assert (folder / "report.html").read_text() == text
    for part in ("History", "Best trials", "Importance", "Parallel coordinates", "Epochs by trial", "until 3 Dec 2014"):
        assert part in text
    assert "24: 18 complete, 5 pruned, 1 fail" in text
    assert "<i>a</i>" not in text
    assert "objective.w[1]" in text
    assert "none: a study sees validation alone" in text
    with pytest.raises(InputError, match="a study is reported by itself"):
        engine.report([folder, folder])


def test_importance_by_loop(tmp_path):
    found = study.importances(read := study.read_study(written(tmp_path / "s")))
    rank = stats.rankdata(read.value[read.complete])
    x = np.array(read.parameters["train.x"])[read.complete]
    third = np.searchsorted(np.quantile(x, [1 / 3, 2 / 3]), x)
    groups = [rank[third == i] for i in range(3)]
    total = ((rank - rank.mean()) ** 2).sum()
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    expected = (total - within - 2 * within / (len(rank) - 3)) / total  # epsilon squared
    assert found["train.x"] == pytest.approx(expected, rel=1e-9)
    assert next(iter(found)) == "train.x"
    assert found["train.x"] > 0.5
    chance = [study.importances(study.read_study(written(tmp_path / str(i), seed=i)))["train.y"] for i in range(20)]
    assert np.mean(chance) < 0.1


def test_few_trials_say_why_parts_are_missing(tmp_path):
    folder = written(tmp_path / "s", count=2, state=["RUNNING", "PRUNED"], value=[None, 0.1])
    items = [item for section in study.sections(study.read_study(folder)) for item in section.items]
    missing = {item.title: item.reason for item in items if isinstance(item, Missing)}
    assert missing.keys() == {"History", "Best trials", "Importance", "Parallel coordinates"}
    assert engine.report(folder).exists()


def test_a_table_of_trials_that_was_damaged_or_edited_is_refused(tmp_path):
    folder = written(tmp_path / "s")
    path = folder / study.TRIALS
    table = pq.read_table(path)
    path.write_bytes(table_content(table))
    assert study.read_study(folder).number.tolist() == list(range(24))
    signed, content = pq.read_table(path), path.read_bytes()
    pq.write_table(signed.set_column(0, "number", pa.array(range(1, 25))), path)
    with pytest.raises(InputError, match="its checksum differs"):
        study.read_study(folder)
    for place in range(0, len(content), 53):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x81]) + content[place + 1 :])
        try:
            found = study.read_study(folder)
        except InputError:
            continue
        assert found.parameters == {**found.parameters, "train.x": table["train.x"].to_pylist()}
    for name, values in (("number", ["a"] * 24), ("state", [1] * 24), ("value", ["a"] * 24), ("epochs", [None] * 24)):
        column = table.column_names.index(name)
        pq.write_table(table.set_column(column, name, pa.array(values)), path)
        with pytest.raises(InputError, match=f"column {name} holds something else"):
            study.read_study(folder)


def test_what_is_no_study_is_named(tmp_path):
    (tmp_path / study.TRIALS).write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        engine.report(tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / study.TRIALS)
    with pytest.raises(InputError, match="not a table of trials"):
        engine.report(tmp_path)
