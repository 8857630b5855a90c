"""Presets stand for settings that there are, and yield to --set."""

import pytest

from engine.config import Config
from engine.config_file import load_config
from engine.presets import PRESETS, preset_settings
from engine.score.tables import read_summary
from loaders.errors import InputError
from tests.conftest import SMALL


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_changes_something(name):
    assert load_config(None, preset_settings(name)) != Config()


def test_no_preset_and_one_that_there_is_not():
    assert preset_settings(None) == []
    with pytest.raises(InputError, match=r"--preset: no preset .quick.*Use fast"):
        preset_settings("quick")


def test_a_preset_yields_to_a_setting(tmp_path, small_cache, run_command):
    few = [f"--set={setting}" for setting in [*SMALL, "train.epochs=1", "train.blocks=4"]]
    common = ["train", "--arrow", small_cache, *few, "--preset", "fast"]
    assert run_command(*common, "--out", tmp_path / "fast")[0] == 0
    assert run_command(*common, "--out", tmp_path / "both", "--set=train.refit=1")[0] == 0
    assert [(tmp_path / n / "checkpoints" / "refit.safetensors").exists() for n in ("fast", "both")] == [False, True]
    figures = [read_summary(tmp_path / name)["splits"] for name in ("fast", "both")]
    assert figures[0]["valid"] == figures[1]["valid"]
    assert figures[0]["test"] != figures[1]["test"]
    code, _, err = run_command(*common[:-1], "slow", "--out", tmp_path / "slow")
    assert (code, "no preset 'slow'" in err) == (2, True)
