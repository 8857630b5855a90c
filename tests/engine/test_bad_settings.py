"""Settings, options and environments that cannot be: each is refused in one line, before any work."""

import os

import pytest

from engine.config_file import LARGEST_FILE, load_config
from engine.inputs import resolve_device
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.conftest import SMALL

SETTINGS = [part for setting in SMALL for part in ("--set", setting)]


def one_line(result, *words):
    code, _, err = result
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"data = 3", "data"),
        (b"[[data]]\narrow = 'x'", "data"),
        (b"x = " + b"[" * 100_000, "nested too deeply"),
        (b"x = " + b"9" * 5_000, "digits"),
        (b"[train]\nepochs = 1\nepochs = 2", "TOML"),
        (b"[train]\nepochs = 1e400", "train.epochs"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[train]\nepochs = 1\0", "TOML"),
        (b"just words", "TOML"),
        (b"[train]\nseed = 1e26", "train.seed"),
        (b"[data]\nblock_days = 100000", "data.block_days"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, content, words):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        load_config(path, [], "cache")
    assert "\n" not in str(refused.value)


def test_a_mark_of_the_byte_order_is_taken(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[train]\nepochs = 5\n")
    assert load_config(path, []).train.epochs == 5


def test_what_is_no_file_is_not_read(tmp_path):
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    for path in (tmp_path, pipe, large, tmp_path / "missing", "/dev/zero"):
        with pytest.raises(InputError, match=str(path)):
            load_config(type(tmp_path)(path), [])


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5_000])
def test_a_setting_that_cannot_be_read_is_refused(value):
    with pytest.raises(InputError, match="--set"):
        load_config(None, [f"train.epochs={value}"])


def test_lines_below_a_setting_are_not_dropped():
    with pytest.raises(InputError, match=r"train\.epochs"):
        load_config(None, ["train.epochs=3\nother=4"])


@pytest.mark.parametrize("path", ["n" * 300, "a\0b", "", "small.toml/x"])
def test_a_path_that_can_name_nothing_is_refused(run_command, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text("")
    with pytest.raises(InputError, match=r"data\.arrow"):
        open_panel(path)
    one_line(run_command("baseline", "--arrow", path))
    for command in (["cache", "verify", path], ["evaluate", path], ["config", "show", path]):
        one_line(run_command(*command))
    one_line(run_command("cache", "simulate", "--codes", 30, "--days", 80, "--out", path or "small.toml"))
    assert [found.name for found in tmp_path.iterdir()] == ["small.toml"]


@pytest.mark.parametrize("out", ["", ".", "/", "n" * 300])
def test_a_file_to_write_is_refused_before_the_work(run_command, out):
    one_line(run_command("baseline", "--arrow", "missing", "--out", out), "--out")
    one_line(run_command("predict", "missing", "--out", out), "--out")
    one_line(run_command("export", "missing", "--out", out), "--out")


def test_a_store_of_nobody_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"data\.store"):
        open_panel("file:///missing", "~nosuchuser/x")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no entry")))
    with pytest.raises(InputError, match=r"data\.store"):
        open_panel("file:///missing")


@pytest.mark.parametrize(
    "url", ["http://nosuch.invalid/x", "s3://", "file://../..", "file:///missing", "nosuch://x/y", "://"]
)
def test_a_url_of_nothing_is_one_line(run_command, tmp_path, url):
    one_line(run_command("baseline", "--arrow", url, "--set", f"data.store={tmp_path}"))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "missing", "--cost-bps"],
        ["baseline", "--periods-per-year"],
        ["report", "missing", "--cost-bps"],
        ["cache", "build", "missing", "--out", "c", "--recipe", "ohlcv", "--min-price"],
        ["cache", "build", "missing", "--out", "c", "--recipe", "ohlcv", "--min-dollar-volume"],
        ["cache", "simulate", "--out", "c", "--ic"],
    ],
)
def test_a_number_that_is_none_is_refused(run_command, command, value):
    one_line(run_command(*command, value), command[-1])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--codes", 10**12), ("--codes", 10**26), ("--days", 3_000_000), ("--days", 10**26), ("--features", 10**9)],
)
def test_a_panel_without_end_is_not_begun(run_command, tmp_path, option, value):
    one_line(run_command("cache", "simulate", "--out", tmp_path / "c", option, value), option)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cuda:99", "xpu", "mps", "meta", "cpu:3", "cuda:-1", "", "\0"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(InputError, match=r"train\.device"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"RANK": "1"}, "RANK"),
        ({"RANK": "x"}, "RANK"),
        ({"WORLD_SIZE": "0"}, "RANK"),
        ({"WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "nosuch.invalid", "MASTER_PORT": "99"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "999999"}, "MASTER_ADDR"),
    ],
)
def test_ranks_that_do_not_go_together_are_refused(run_command, small_cache, tmp_path, monkeypatch, variables, word):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, err = run_command("train", "--arrow", small_cache, "--out", tmp_path / "r", *SETTINGS)
    assert code == 2
    assert err.startswith(f"error: {word}")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("kind", ["ridge", "online"])
def test_an_unknown_category_is_refused_by_baselines(run_command, small_cache, kind):
    line = ["baseline", "--arrow", small_cache, "--kind", kind, "--set", "model.categories={nope=3}"]
    one_line(run_command(*line), "model.categories", "'nope'")
