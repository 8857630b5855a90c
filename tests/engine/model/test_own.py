"""Networks of the user's own in the trainer: resumed, as members, as a batch, in folds, from the command line."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import engine
from engine.checkpoint import load_checkpoint
from engine.config_file import load_config
from engine.errors import Stopped
from engine.evaluation.evaluate import evaluate
from engine.model.ensemble import build_ensemble
from engine.model.own import OwnNetwork, seeded
from engine.score.predict import load_run, predict_run
from engine.training.dry_run import dry_run
from engine.training.folds import train_folds
from engine.training.step.learner import make_learner
from loaders.cache.format import CONTEXT, SCORED
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.conftest import SMALL
from tests.engine.training.steps import CPU, F, H, block, configured, same, trained

SETTINGS = [setting for setting in SMALL if "spans" not in setting]
BATCH = "train.compile=on"
CONTEXT_DAYS = 6


def named(name, *settings):
    return [f"model.name=tests.own_models:{name}", *SETTINGS, *settings]


def metrics(folder):
    return (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def busy_run(small_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "busy"
    return engine.train(
        cache=small_cache, settings=named("Busy", "train.seeds=2", "train.ema=0.9"), out=folder, quiet=True
    )


def test_it_learns_and_is_evaluated_like_any_other(busy_run, small_cache):
    """Buffers, dropout, two members and an average of the weights included."""
    summary = json.loads((busy_run.folder / "summary.json").read_text())
    assert summary["splits"]["test"]["1"]["rank_ic"] > 0.3
    found = evaluate([busy_run.folder], "test", None, None)["splits"]["test"]
    assert found["1"]["rank_ic"] == pytest.approx(summary["splits"]["test"]["1"]["rank_ic"], abs=1e-6)
    scores = predict_run(load_run(busy_run.folder), open_panel(small_cache), "valid")
    assert scores.values[1].std() > 0


def test_buffers_are_in_the_checkpoint_and_in_the_average(busy_run):
    state, tensors = load_checkpoint(busy_run.folder / "checkpoints" / "last.safetensors")
    for ensemble in ("model", "average"):
        for k in range(2):
            assert tensors[f"{ensemble}.members.{k}.network.steps"] == state.step


def test_resuming_gives_the_metrics_of_an_unbroken_run_to_the_digit(busy_run, small_cache, tmp_path, monkeypatch):
    from engine.training import epoch

    seen = []

    def stop_later(run):
        seen.append(run)
        return len(seen) == 30  # in the second epoch

    monkeypatch.setattr(epoch, "_stopped", stop_later)
    config = load_config(None, named("Busy", "train.seeds=2", "train.ema=0.9"), str(small_cache))
    monkeypatch.setattr(epoch.signal, "Signals", lambda number: None)
    with pytest.raises(Stopped):
        engine.train(config, out=tmp_path / "run", quiet=True)
    torch.rand(7)  # what the process drew before does not matter
    engine.train(out=tmp_path / "run", resume=True, quiet=True)
    assert metrics(tmp_path / "run") == metrics(busy_run.folder)


@pytest.mark.parametrize("name", ["Windows", "Recurrent", "Busy", "Market", "Universe", "Quantiles"])
def test_members_of_a_batch_are_trained_as_on_threads(name):
    """Mapped over members where that goes, else one after the other; each as with a step of its own."""
    config = configured(f"model.name=tests.own_models:{name}", "train.seeds=2", "model.spans=[5, 10]")
    config = resolved(config)
    blocks = [[block(0), block(1)], [block(2), None]]
    found, results, _ = trained(config, blocks, batched=True)
    expected, expected_results, _ = trained(config, blocks)
    torch.testing.assert_close(results, expected_results, equal_nan=True, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        same(one, other, rtol=1e-3, atol=1e-6)
        for buffer in ("network.steps", "network.mean"):
            if buffer in other.weights:
                torch.testing.assert_close(one.weights[buffer], other.weights[buffer])


def test_what_a_member_does_is_found_out_while_no_other_draws():
    """Both take numbers from the one generator that torch has for all threads."""
    drew, go = threading.Event(), threading.Event()

    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(F, H)

        def forward(self, x, present):
            noise = torch.rand(3).sum()
            drew.set()
            go.wait(10)
            return self.head(x[:, CONTEXT_DAYS - 1 :]) + noise

    config = resolved(configured("model.name=tests.own_models:Busy", "model.spans=[5, 10]"))
    network = build_ensemble(config, F, H).first
    slow = OwnNetwork("slow", Slow(), F, H, CONTEXT_DAYS, 0)
    with seeded(network, 7):
        expected = torch.rand(5)
    assert network.traits.draws
    with seeded(network, 7):
        other = threading.Thread(target=lambda: slow.traits)
        other.start()
        drew.wait(0.2)
        found = torch.rand(5)
    go.set()
    other.join()
    assert found.tolist() == expected.tolist()
    assert slow.traits.draws


@pytest.mark.parametrize("batched", [False, True])
def test_a_step_tells_which_rows_are_of_the_universe(batched):
    """Only to a network that asks for it does it matter that a row is of the universe."""
    inside = block(0)
    outside = replace(inside, presence=inside.presence.clamp(max=CONTEXT))
    for name, same_results in (("Universe", False), ("Market", True)):
        config = resolved(configured(f"model.name=tests.own_models:{name}", "model.spans=[5, 10]"))
        _, one, _ = trained(config, [inside], batched=batched)
        _, other, _ = trained(config, [outside], batched=batched)
        assert torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) == same_results


def test_scoring_tells_which_rows_are_of_the_universe(small_cache, tmp_path):
    """Scores of a day are those of the module on the day's window, gathered here row by row."""
    settings = named("Universe", "train.epochs=1", "model.neutralize=0", "model.online_weight=0")
    run = engine.train(cache=small_cache, settings=settings, out=tmp_path / "run", quiet=True)
    loaded, panel = load_run(run.folder), open_panel(small_cache)
    scores = predict_run(loaded, panel, "test")
    code_of = panel.code_of(scores.rows)
    day_of = scores.rows - panel.offset[code_of] + panel.first[code_of]
    day = int(np.bincount(day_of[panel.presence[scores.rows] == CONTEXT]).argmax())
    x, presence = torch.zeros(len(panel.offset), 3, len(panel.manifest.features)), torch.zeros(len(panel.offset), 3)
    for code in range(len(x)):
        for k in range(3):
            rows = panel.rows_of(code, day - 2 + k, day - 1 + k)
            if rows.stop > rows.start and panel.presence[rows][0]:
                presence[code, k] = float(panel.presence[rows][0])
                x[code, k] = torch.from_numpy(panel.features[rows][0].astype("float32"))
    assert 0 < (presence[:, -1] == SCORED).sum() < (presence[:, -1] > 0).sum()
    with torch.no_grad():
        expected = loaded.model.members[0].network(x, (presence > 0).float(), (presence == SCORED).float())
    here = presence[:, -1] > 0
    found = torch.from_numpy(scores.values[1][day_of == day][np.argsort(code_of[day_of == day])])
    torch.testing.assert_close(found, expected[here, 0, 0], rtol=1e-4, atol=1e-5)


def resolved(config):
    from engine.model.own import own_resolved

    return own_resolved(config, F, H)


@pytest.mark.parametrize(("name", "parts"), [("Windows", 2), ("Market", 1), ("Busy", 1)])
def test_only_independent_codes_are_split_between_threads(name, parts):
    config = resolved(configured(f"model.name=tests.own_models:{name}", "model.spans=[5, 10]"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with make_learner(config, F, H, CPU) as learner:
            assert learner.threads.parts == parts
            replicas = learner.threads.replicas[0]
            assert len({p.data_ptr() for replica in replicas for p in [next(replica.parameters())]}) == 1
    finally:
        torch.set_num_threads(before)


def test_what_a_network_does_is_found_by_trying():
    for name, draws, changes, maps in (
        ("Windows", False, False, True), ("Recurrent", False, False, False), ("Busy", True, True, False),
    ):  # fmt: skip
        config = resolved(configured(f"model.name=tests.own_models:{name}", "model.spans=[5, 10]"))
        own = build_ensemble(config, F, H).members[0]
        assert isinstance(own, OwnNetwork)
        assert (own.traits.draws, own.traits.changes, own.traits.maps) == (draws, changes, maps), name


def test_the_configuration_holds_what_was_used_and_no_setting_of_atft(busy_run):
    text = (busy_run.folder / "config.toml").read_text()
    assert 'name = "tests.own_models:Busy"' in text
    assert "quantile = 0.0" in text
    assert "market_tokens" not in text
    assert busy_run.config.model.name == "tests.own_models:Busy"


def test_quantiles_are_trained_where_there_are_some(small_cache, tmp_path):
    run = engine.train(
        cache=small_cache, settings=named("Quantiles", "train.epochs=1"), out=tmp_path / "run", quiet=True
    )
    assert json.loads(metrics(run.folder).splitlines()[0])["train"]["quantile"] > 0


def test_folds_and_phases_and_a_dry_run(small_cache, tmp_path):
    (tmp_path / "c.toml").write_text(
        '[[phases]]\nname = "a"\nepochs = 1\n[[phases]]\nname = "b"\nepochs = 1\nweights = {ic = 1.0}\n'
    )
    settings = named("Market", "split.folds=2", "model.options.width=4")
    config = load_config(tmp_path / "c.toml", settings, str(small_cache))
    out = train_folds(config, tmp_path / "folds", False, Console(quiet=True))
    assert len(json.loads((out / "summary.json").read_text())["folds"]) == 2
    assert [json.loads(line)["phase"] for line in metrics(out / "fold-1").splitlines()] == ["a", "b"]
    assert load_run(out / "fold-0").model.members[0].network.inner.out_features == 4
    items = dry_run(load_config(None, named("Market"), str(small_cache)), Console(quiet=True))
    assert {item.name: item.ok for item in items}["gradients"] is True


def test_a_factory_that_cannot_be_imported_trains_and_has_to_be_given_again(small_cache, tmp_path, monkeypatch):
    from engine.own import names
    from tests.own_models import Windows

    def build(features, horizons, context):
        return Windows(features, horizons, context, width=5)

    settings = [*SETTINGS, "train.epochs=1"]
    run = engine.train(cache=small_cache, model=build, settings=settings, out=tmp_path / "run", quiet=True)
    assert load_run(run.folder).model.members[0].network.inner.out_features == 5
    monkeypatch.setattr(names, "_given", {})  # as in another process
    with pytest.raises(InputError, match=r"this process does not know it. Give it again"):
        load_run(run.folder)
    engine.remember(build)
    load_run(run.folder)


def test_the_command_line_imports_from_the_current_directory(small_cache, tmp_path, run_command, monkeypatch):
    (tmp_path / "mine_here.py").write_text("from tests.own_models import Windows\nbuild = Windows\n")
    monkeypatch.chdir(tmp_path)
    settings = [argument for setting in [*SETTINGS, "train.epochs=1"] for argument in ("--set", setting)]
    code, out, err = run_command(
        "train", "--arrow", small_cache, "--model", "mine_here:build", "--out", "run", "--set", "model.options.width=3",
        *settings,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "network mine_here:build: looks back on 3 of 8 days, codes are independent, no quantiles" in out
    assert run_command("evaluate", "run")[0] == 0
    assert run_command("predict", "run", "--out", "scores.parquet")[0] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.name=nowhere:build"], "cannot be imported (ModuleNotFoundError: No module named 'nowhere')"),
        (["model.name=tests.own_models:nothing"], "has no attribute 'nothing'"),
        (["model.name=tests.own_models:C"], "tests.own_models:C is no function or class"),
        (["model.name=:x"], "':x' is not package.module:object"),
        (["model.name=gru"], "no network 'gru'. Use atft, or package.module:factory for your own"),
        (named("Windows", "model.options.depth=3"), "unexpected keyword argument 'depth'"),
        (named("Windows", "model.size=small"), "model.size is a setting of ATFT"),
        (named("Windows", "objective.quantile=0.3"), "gives no quantiles to train on"),
        (named("Quantiles", "model.quantiles=[0.5]"), "gave quantiles (3, 2, 2, 3), not (3, 2, 2, 1)"),
        (named("Windows", "data.context=2"), "looks back on context=3 days, not 1 to data.context=2"),
        (named("Bidirectional"), "changes with the features of a later day: day 1 (+1)"),
        (["model.options.width=3"], "model.options are for a network of your own"),
        (named("Windows", "phases=[{name='a', epochs=1, off=['market']}]"), "Write for example"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_exit_code_2(small_cache, tmp_path, run_command, settings, words):
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    code, _, err = run_command("train", "--arrow", small_cache, "--out", tmp_path / "run", *arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_phases_name_no_parts(small_cache, tmp_path):
    (tmp_path / "c.toml").write_text('[[phases]]\nname = "a"\nepochs = 1\nfrozen = ["heads"]\n')
    with pytest.raises(InputError, match="names 'heads', a part of ATFT"):
        load_config(tmp_path / "c.toml", named("Windows"), str(small_cache))
