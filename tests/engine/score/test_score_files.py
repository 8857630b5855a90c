"""A score file that was damaged or edited is refused in one line and ends no process; others' files are read."""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.score.files import Scores, read_scores, write_scores
from loaders.errors import InputError

METADATA = {"cache_id": "abc", "split": "test", "run_id": "r", "trained_until": "2009-12-01"}
# Every third byte flipped in a process of its own: a signal of Arrow's would end it. Prints one letter for each.
FLIPS = """
import sys
from pathlib import Path
from engine.score.files import read_scores
from loaders.errors import InputError

path = Path(sys.argv[1])
content, good = path.read_bytes(), read_scores(path)
for place in range(0, len(content), 3):
    path.write_bytes(content[:place] + bytes([content[place] ^ 0x81]) + content[place + 1 :])
    try:
        found = read_scores(path)
    except InputError as error:
        assert "\\n" not in str(error)
        print("r", end="")
        continue
    same = (found.date == good.date).all() and (found.code == good.code).all()
    same = same and all((found.values[h] == good.values[h]).all() for h in good.values | found.values)
    print("s" if same and found.metadata in (good.metadata, {}) else "w", end="")
"""


def scores(count=30, seed=0):
    rng = np.random.default_rng(seed)
    days = np.repeat(np.arange("2010-01-04", "2010-01-14", dtype="datetime64[D]"), 3)
    values = {h: rng.normal(size=30).astype(np.float32)[:count] for h in (1, 5)}
    return Scores(days[:count], np.tile(np.array(["B", "A", "C"]), 10)[:count], values, METADATA)


@pytest.fixture
def path(tmp_path):
    write_scores(tmp_path / "s.parquet", scores())
    return tmp_path / "s.parquet"


def test_no_flipped_byte_changes_a_score_or_ends_the_process(path):
    done = subprocess.run([sys.executable, "-c", FLIPS, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout) == {"r", "s"}
    assert done.stdout.count("r") > 2 * done.stdout.count("s")


def test_a_file_cut_anywhere_is_refused(path):
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match="not a readable Parquet file") as refusal:
            read_scores(path)
        assert "\n" not in str(refusal.value)


def test_an_edited_file_is_refused_and_one_without_a_checksum_is_read(path):
    table = pq.read_table(path)
    column = table["score_1"].to_numpy().copy()
    column[3] += 1
    edited = table.set_column(2, "score_1", pa.array(column))
    for other in (edited, table.slice(1), table.replace_schema_metadata(table.schema.metadata | {b"split": b"valid"})):
        pq.write_table(other, path)
        with pytest.raises(InputError, match=r"its checksum differs.*leave 'checksum' out"):
            read_scores(path)
    pq.write_table(edited.replace_schema_metadata(METADATA), path)
    found = read_scores(path)
    assert np.array_equal(found.values[1], column)
    assert found.metadata == METADATA


def test_the_order_of_columns_and_a_column_more_change_nothing(path):
    table = pq.read_table(path)
    pq.write_table(table.select(["score_5", "code", "score_1", "date"]).append_column("x", table["date"]), path)
    assert np.array_equal(read_scores(path).values[5], scores().values[5])


@pytest.mark.parametrize("name", ["trained_until", "tuned_until"])
@pytest.mark.parametrize("text", ["", "2010", "2010-13-01", "20100104", "x" * 1000])
def test_a_day_of_the_metadata_is_one(path, name, text):
    pq.write_table(pq.read_table(path).replace_schema_metadata({name: text}), path)
    with pytest.raises(InputError, match=f"metadata's {name} is") as refusal:
        read_scores(path)
    assert len(str(refusal.value)) < 500


def test_metadata_that_are_no_text_are_named(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"split": b"\xff"}), path)
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_scores(path)


def test_what_is_no_file_is_said_at_once(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, word in (("folder", "is a folder"), ("pipe", "not a plain file"), ("none", "no such file")):
        with pytest.raises(InputError, match=word):
            read_scores(tmp_path / name)
