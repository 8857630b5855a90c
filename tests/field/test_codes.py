"""One security, one code: blanks are cut, two spellings of a number are refused, and so are two rows of one date."""

import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.score.files import read_scores
from loaders.cache.build import build
from loaders.cache.format import read_manifest
from loaders.errors import InputError
from loaders.panel import open_panel

DAYS = [datetime.date(2020, 1, day) for day in (1, 2, 3, 6)]


def write(path, codes, days=None, kind=None):
    """A file with one row for each code and date, whose feature counts the rows."""
    n = len(codes)
    columns = {"date": days or DAYS[:n], "code": pa.array(codes, kind), "x": np.arange(1.0, n + 1), "y_1": np.zeros(n)}
    pq.write_table(pa.table(columns), path)
    return path


def write_scores(path, codes, days=None, kind=None):
    n = len(codes)
    pq.write_table(
        pa.table({"date": days or DAYS[:n], "code": pa.array(codes, kind), "score_1": np.arange(n) + 0.5}), path
    )
    return path


def built(source, out):
    settings = {"features": ["x"], "targets": ["y_1"], "dtype": "float32", "transform": "none"}
    build("columns", [source], out, settings)
    return read_manifest(out)


TEXTS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
@pytest.mark.parametrize("spelled", [[" C001", "C001 ", "C001", "\tC001 "], ["C001", "C001", "C001", "C001"]])
def test_blanks_are_cut(tmp_path, kind, spelled):
    assert built(write(tmp_path / "p.parquet", spelled, kind=kind), tmp_path / "cache").codes == ["C001"]
    assert open_panel(tmp_path / "cache").features[:, 0].tolist() == [1, 2, 3, 4]
    scores = read_scores(write_scores(tmp_path / "s.parquet", spelled, kind=kind))
    assert set(scores.code) == {"C001"}


def test_blanks_inside_stay(tmp_path):
    assert built(write(tmp_path / "p.parquet", ["BRK B", " BRK B"]), tmp_path / "cache").codes == ["BRK B"]


def test_blanks_in_a_csv(tmp_path):
    (tmp_path / "p.csv").write_text("date,code,x,y_1\n2020-01-01, A ,1,0\n2020-01-02,A,2,0\n2020-01-01,'B',1,0\n")
    assert built(tmp_path / "p.csv", tmp_path / "cache").codes == ["'B'", "A"]


@pytest.mark.parametrize("blank", ["", "  ", "\t", None])
def test_a_code_of_blanks_is_none(tmp_path, blank):
    codes = ["A", blank, "B"]
    with pytest.raises(InputError, match=r"p\.parquet: 1 rows have no code in column 'code', the first on 2020-01-02"):
        built(write(tmp_path / "p.parquet", codes), tmp_path / "cache")
    with pytest.raises(InputError, match=r"s\.parquet: 1 rows have no code"):
        read_scores(write_scores(tmp_path / "s.parquet", codes))


@pytest.mark.parametrize(
    ("left", "right", "one", "other"),
    [
        (["1", "2"], ["000001", "3"], "1", "000001"),
        ([1, 2], ["000001", "3"], "1", "000001"),
        (["0700"], ["700"], "0700", "700"),
        (["2.0", "007"], ["7", "2.0"], "007", "7"),
    ],
    ids=str,
)
def test_two_spellings_of_a_number_are_refused_with_their_files(tmp_path, left, right, one, other):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.parquet", left)
    write(folder / "b.parquet", right)
    with pytest.raises(InputError, match="are the same number") as caught:
        built(folder, tmp_path / "cache")
    for word in (f"'{one}' (in {folder}/a.parquet)", f"'{other}' (in {folder}/b.parquet)"):
        assert word in str(caught.value)
    with pytest.raises(InputError, match="are the same number"):
        read_scores(write_scores(tmp_path / "s.parquet", [str(code) for code in (*left, *right)]))


def test_one_file_alone_may_hold_both(tmp_path):
    with pytest.raises(InputError, match=r"'1'.*'01'|'01'.*'1'"):
        built(write(tmp_path / "p.parquet", ["1", "01"]), tmp_path / "cache")


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint32()], ids=str)
def test_integers_and_the_same_texts_are_one_code(tmp_path, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.parquet", [7, 8], kind=kind)
    write(folder / "b.parquet", ["7", "8"], DAYS[2:])
    assert built(folder, tmp_path / "cache").codes == ["7", "8"]
    assert set(read_scores(write_scores(tmp_path / "s.parquet", [7, 8], kind=kind)).code) == {"7", "8"}


@pytest.mark.parametrize(("codes", "kind"), [([1.0, 2.0], "double"), ([True, False], "bool")])
def test_other_types_are_no_codes(tmp_path, codes, kind):
    with pytest.raises(InputError, match=r"'code' is (Float64|Boolean), no code"):
        built(write(tmp_path / "p.parquet", codes), tmp_path / "cache")
    with pytest.raises(InputError, match=f"code is {kind}"):
        read_scores(write_scores(tmp_path / "s.parquet", codes))


@pytest.mark.parametrize("codes", [["A", "B", "A"], ["A ", "B", " A"]])
def test_two_rows_of_a_code_and_date_are_refused_with_both_files(tmp_path, codes):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.parquet", codes[:2])
    write(folder / "b.parquet", codes[2:])
    write(folder / "c.parquet", ["C"])
    with pytest.raises(InputError) as caught:
        built(folder, tmp_path / "cache")
    assert str(caught.value).startswith(f"{folder}/a.parquet and {folder}/b.parquet: two rows for A on 2020-01-01.")
    with pytest.raises(InputError, match="holds 2020-01-01 A twice"):
        read_scores(write_scores(tmp_path / "s.parquet", codes, [DAYS[0], DAYS[1], DAYS[0]]))


def test_a_score_that_is_missing_is_named(tmp_path):
    table = pl.DataFrame({"date": DAYS[:2], "code": ["A", "B"], "score_5": [0.5, None]})
    table.write_parquet(tmp_path / "s.parquet")
    with pytest.raises(InputError, match="score_5 is missing or infinite in 1 rows, the first for B on 2020-01-02"):
        read_scores(tmp_path / "s.parquet")
