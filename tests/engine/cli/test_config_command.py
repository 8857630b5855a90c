"""`config show` gives TOML that a command reads back to the same settings; `config schema` is what they are held to."""

import json
import tomllib

import pytest

from engine.config import Config
from engine.config_file import load_config
from tests.conftest import SMALL


def test_shown_settings_read_back_to_the_same(run_command, tmp_path):
    settings = [
        "train.epochs=4", "data.horizons=[1, 5]", 'model.categories={sector = 11, "a b" = 3}',
        "split.tuned_until=2013-01-01",
        f"data.features={[f'feature_{i}' for i in range(40)]}",
    ]  # fmt: skip
    code, shown, _ = run_command("config", "show", *(part for setting in settings for part in ("--set", setting)))
    assert code == 0
    (tmp_path / "shown.toml").write_text(shown)
    assert load_config(tmp_path / "shown.toml", []) == load_config(None, settings)
    assert run_command("config", "show", "--config", tmp_path / "shown.toml")[1] == shown


def test_what_differs_is_marked(run_command):
    default = Config()
    _, shown, _ = run_command("config", "show", "--set", "train.epochs=4", "--set", "data.horizons=[1]")
    marked = [line for line in shown.splitlines() if "# default: " in line]
    assert marked == ["horizons = [1]  # default: unset", f"epochs = 4  # default: {default.train.epochs}"]
    assert "# test_end is unset" in shown.splitlines()
    assert "default" not in run_command("config", "show")[1]


def test_settings_of_a_run(run_command, small_run):
    code, shown, _ = run_command("config", "show", small_run)
    assert code == 0
    read = tomllib.loads(shown)
    written = tomllib.loads((small_run / "config.toml").read_text())
    assert written.pop("trees") == {"kind": read.pop("trees")["kind"]} == {"kind": "off"}  # what is off is not written
    assert {name: section for name, section in read.items() if section} == {n: s for n, s in written.items() if s}
    assert read["train"]["blocks"] == int(next(s for s in SMALL if "train.blocks" in s).partition("=")[2])


def test_phases_and_a_search_are_shown(run_command, tmp_path):
    text = '[[phases]]\nname = "one"\nepochs = 2\n\n[hpo]\nfolds = 3\n'
    (tmp_path / "study.toml").write_text(text)
    import hpo.cli  # noqa: F401  which adds the section [hpo]

    _, shown, _ = run_command("config", "show", "--config", tmp_path / "study.toml")
    read = tomllib.loads(shown)
    assert (read["phases"][0]["epochs"], read["hpo"]["folds"]) == (2, 3)
    assert "folds = 3  # default: 0" in shown


@pytest.mark.parametrize("section", [None, *Config.model_fields])
def test_schema(run_command, section):
    code, text, _ = run_command("config", "schema", *(() if section is None else ("--section", section)))
    schema = json.loads(text)
    assert code == 0
    if section == "train":
        assert schema["properties"]["epochs"]["minimum"] == 1
        assert schema["additionalProperties"] is False


def test_bad_input(run_command, tmp_path):
    for arguments, word in (
        (("config", "show", tmp_path), "config.toml is missing"),
        (("config", "show", tmp_path, "--config", "x.toml"), "--config"),
        (("config", "show", "--set", "train.epoch=1"), "train.epoch"),
        (("config", "schema", "--section", "trian"), "trian"),
    ):
        code, _, err = run_command(*arguments)
        assert (code, len(err.splitlines())) == (2, 1)
        assert word in err
