"""Every setting is checked by name, and what is written is read back as the same configuration."""

import hashlib
import os
import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.config import Config
from engine.config_file import SIGNED, config_hash, load_config, to_toml
from loaders.errors import InputError


def test_toml_round_trip(tmp_path):
    config = load_config(None, ["split.valid_start=2013-01-01", "split.test_start=2015-01-01", "model.quantiles=[0.5]"])
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load_config(path, []) == config
    assert config.split.valid_start == "2013-01-01"


def test_settings_win_over_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[train]\nepochs = 3\nseed = 5\n")
    config = load_config(path, ["train.epochs=4"], arrow="elsewhere")
    assert (config.train.epochs, config.train.seed, config.data.arrow) == (4, 5, "elsewhere")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["train.epoch=3"], "train.epoch"),
        (["trainer.epochs=3"], "trainer"),
        (["train.epochs=zero"], "train.epochs"),
        (["train.epochs=0"], "train.epochs"),
        (["train.learning_rate=nan"], "train.learning_rate"),
        (["model.dropout=1.0"], "model.dropout"),
        (["model.size=huge"], "model.size"),
        (["epochs=3"], "--set"),
        (["train.epochs"], "--set"),
        (["split.valid_start=2013-01-01"], "split.test_start"),
        (["split.folds=2", "split.fold=2"], "split.fold"),
        (["model.normalisation=true", "model.spans=[5, 30]"], "model.spans"),
        (["objective.rank_ic=0", "objective.ic=0", "objective.sharpe=0", "objective.quantile=0"], "objective"),
        (["model.quantiles=[]"], "model.quantiles"),
        (["train.ema=0.9", "train.swa=0.5"], "train.swa"),
        (["model.convolution=true"], "model.convolution"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(InputError) as caught:
        load_config(None, settings)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def _numbers_of(schema):
    """`section.key` of each setting that may be a number, by the schema, which the check does not read."""
    for section, place in schema["properties"].items():
        of = schema["$defs"].get(place.get("$ref", "").rpartition("/")[2], {})
        for key, setting in of.get("properties", {}).items():
            kinds = {one.get("type") for one in (setting, *setting.get("anyOf", []))}
            if kinds & {"integer", "number"} and "boolean" not in kinds:
                yield f"{section}.{key}"


NUMBERS = list(_numbers_of(Config.model_json_schema()))


def test_true_and_false_are_no_numbers(tmp_path):
    assert len(NUMBERS) > 40
    for name in NUMBERS:
        section, _, key = name.partition(".")
        path = tmp_path / "config.toml"
        for value in ("true", "false"):
            path.write_text(f"[{section}]\n{key} = {value}\n")
            for settings, file in (([f"{name}={value}"], None), ([], path)):
                with pytest.raises(InputError, match=f"^{name}: true and false are no numbers"):
                    load_config(file, settings)
            with pytest.raises(ValidationError, match="true and false are no numbers"):
                type(getattr(Config(), section))(**{key: value == "true"})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[model]\nspans = [true, 5]", "model.spans"),
        ("[model.categories]\nsector = true", "model.categories"),
        ("[objective.own.mine]\nterm = 'mine:term'\nweight = true", "objective.own.mine.weight"),
        ("[objective]\nhorizon_weights = [true, false]", "objective.horizon_weights"),
        ("[[phases]]\nname = 'one'\nepochs = true", "phases.0.epochs"),
        ("[[phases]]\nname = 'one'\nepochs = 1\nweights = { ic = true }", "phases.0.weights"),
        ("[data]\nhorizons = [true]", "data.horizons"),
    ],
)
def test_true_is_no_number_inside_a_setting(tmp_path, content, named):
    path = tmp_path / "config.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=f"^{named}: true and false are no numbers"):
        load_config(path, [])


@pytest.mark.parametrize("content", ["[train\n", "\xff\xfe"])
def test_a_file_that_is_no_toml(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"bad\.toml"):
        load_config(path, [])
    with pytest.raises(InputError, match="missing"):
        load_config(tmp_path / "missing.toml", [])


def test_hash_covers_figures_and_not_places():
    base = config_hash(Config())
    assert config_hash(load_config(None, ["data.arrow=other", "train.checkpoint_seconds=1"])) == base
    assert config_hash(load_config(None, ["train.seed=1"])) != base


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, unique=True))
@example(["c\x7f", "\x00\x1f", "\\u007F"])
def test_any_name_is_read_back_as_it_was_written(names):
    """Into the file, by its bytes, and back."""
    given = {"data": {"features": names, "arrow": names[0]}, "model": {"name": "a:b", "options": {names[0]: 1}}}
    written = to_toml(Config.model_validate(given)).encode()
    read = tomllib.loads(written.decode())
    assert read["data"]["features"] == names
    assert read["data"]["arrow"] == names[0]
    assert read["model"]["options"] == {names[0]: 1}


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InputError, match="a pipe, not a plain file"):
        load_config(tmp_path / "pipe.toml", [])


def test_a_run_of_before_refits_had_none_and_keeps_its_identity(tmp_path):
    """What `config.toml` of such a run said: nothing of refits."""
    off = load_config(None, ["train.refit=0"])
    path = tmp_path / "config.toml"
    lines = [line for line in to_toml(off).splitlines() if not line.startswith("refit")]
    text = "\n".join(lines) + "\n"
    path.write_text(f"{SIGNED}{hashlib.sha256(text.encode()).hexdigest()[:16]}\n{text}")
    assert load_config(path, []).train.refit == 0
    assert config_hash(load_config(path, [])) == config_hash(off)
    path.write_text(text)  # anybody's file has the default
    assert load_config(path, []).train.refit == Config().train.refit > 0
    assert len({config_hash(load_config(None, [f"train.refit={share}"])) for share in (0, 0.5, 1)}) == 3
