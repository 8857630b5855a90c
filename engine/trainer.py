"""Training: blocks in, a run folder out. The loop reads top to bottom in `train`; everything it decides is in State."""

import json
import math
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from engine.checkpoint import (
    BEST,
    LAST,
    State,
    load_checkpoint,
    restore_model,
    restore_optimizer,
    save_checkpoint,
    write_atomically,
)  # fmt: skip
from engine.config import Config, config_hash, load_config, to_toml
from engine.evaluate import evaluate_scores
from engine.model.atft import ATFT, build_model
from engine.objective import Objective, draw_rotations, make_objective
from engine.predict import check_agreement, make_split, resolve_device, score_part
from engine.tracking import (
    device_name,
    finite,
    git_revision,
    live,
    log_scalars,
    throughput,
    write_metrics,
)  # fmt: skip
from kernels.rank_terms import TERMS
from loaders.cache.checking import Check, checked
from loaders.delivery import AHEAD, Stages
from loaders.errors import InputError
from loaders.order import mix
from loaders.panel import Panel, open_panel
from loaders.plan import Plan
from loaders.source import Source, open_source
from loaders.split import Split


class RunFailed(Exception):
    """A training that cannot go on, such as a loss that is no longer finite. Exit code 1."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM; the run's state has been saved. Exit code 1."""


def learning_rate(config: Config, progress: float) -> float:
    """Linear warm-up, then a cosine to 0; `progress` runs from 0 to 1 over the whole run."""
    warmup, peak = config.train.warmup, config.train.learning_rate
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def train(config: Config, run: Path | None, resume: bool, console: Console) -> Path:
    """Train, evaluate the best checkpoint on validation and test, and return the run's folder.

    Args:
        run: the folder to write (default runs/<run id>); it must not hold a run unless `resume`.
        resume: go on from the folder's last checkpoint, to the figures an unbroken run would have had.

    Raises InputError for a bad cache, split, folder or checkpoint; RunFailed for a loss or validation figure that is
    not finite; Stopped after a signal, when a checkpoint has been saved.
    """
    panel = open_panel(config.data.arrow, config.data.store)
    config = resolve(config, panel)
    split = make_split(config, panel)
    plan = Plan(panel, split.train, config.data.block_days, config.data.block_codes, config.train.seed)
    device = resolve_device(config.train.device)
    features, horizons = panel.manifest.features, panel.manifest.horizons
    model = build_model(config.model, len(features), len(horizons), config.data.context, config.train.seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=config.train.weight_decay)
    objective = make_objective(config, len(horizons), device)
    running = torch.zeros(len(config.objective.weights()) + 1, dtype=torch.float64, device=device)

    if resume:
        run = _existing(run)
        path = run / "checkpoints" / LAST
        state, tensors = load_checkpoint(path)
        _check_resumable(state, config, panel, run)
        restore_model(model, tensors, path)
        restore_optimizer(optimizer, tensors)
        running.copy_(tensors["running"])
    else:
        run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        run = Path("runs") / run_id if run is None else run
        if (run / "config.toml").exists() or (run.is_dir() and any(run.iterdir())):
            raise InputError(str(run), "the folder is not empty", "Pass --resume to go on, or another --out")
        state = State(run_id, panel.manifest.cache_id, config_hash(config), features, horizons)
        _start(run, config, state, model, optimizer, running)
    write_metrics(run, state)
    from torch.utils.tensorboard import SummaryWriter

    opened = open_source(panel, device, config.data.tier, config.data.device_share)
    with opened as source, checked(panel) as check, _signals() as stop:
        console.print(_heading(state, source, split, model, device))
        writer = SummaryWriter(str(run), purge_step=state.step + 1 if resume else None)
        with closing(writer):
            while not state.finished:
                stages = _epoch(
                    config, plan, source, model, objective, optimizer, running, state, device, run, check, stop, console
                )
                _validate(config, source, split, model, optimizer, running, state, run, writer, console, stages)
        check.to_the_end()
        _summarise(config, source, split, model, state, device, run)
    return run


def resolve(config: Config, panel: Panel) -> Config:
    """Fill in what the cache decides. Raises InputError where the configuration expects another cache."""
    manifest = panel.manifest
    if config.data.features is not None:
        check_agreement(list(config.data.features), manifest.horizons, panel, "data.features")
    if config.data.horizons is not None:
        check_agreement(manifest.features, list(config.data.horizons), panel, "data.horizons")
    known = {"features": tuple(manifest.features), "horizons": tuple(manifest.horizons)}
    return config.model_copy(update={"data": config.data.model_copy(update=known)})


def resumed_config(run: Path | None, settings: list[str], arrow: str | None) -> Config:
    """The configuration stored in a run folder, for --resume; `train` refuses settings that change figures."""
    path = _existing(run) / "config.toml"
    return load_config(path, settings, arrow)


def _existing(run: Path | None) -> Path:
    if run is None or not (run / "config.toml").exists():
        raise InputError(str(run or "--resume"), "no run to resume here", "Name its folder with --out")
    return run


def _check_resumable(state: State, config: Config, panel: Panel, run: Path) -> None:
    if state.config_hash != config_hash(config):
        what = "the configuration differs from the one this run began with"
        raise InputError(str(run), what, "Leave --config and --set out to resume, or begin another run")
    if state.cache_id != panel.manifest.cache_id:
        what = f"began on cache {state.cache_id}, {panel.folder} is {panel.manifest.cache_id}"
        raise InputError(str(run), what, "Resume on the cache it began with, or begin another run")


def _start(
    run: Path, config: Config, state: State, model: ATFT, optimizer: torch.optim.Optimizer, running: torch.Tensor
) -> None:
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(run), f"cannot be made ({error.strerror})", "Choose another --out") from error
    save_checkpoint(run / "checkpoints" / LAST, state, model, optimizer, running)
    write_atomically(run / "config.toml", to_toml(config).encode())


def _heading(state: State, source: Source, split: Split, model: ATFT, device: torch.device) -> str:
    panel = source.panel
    dates = [f"{name} {panel.calendar[d.start]}..{panel.calendar[d.stop - 1]}" for name, d in vars(split).items()]
    params = sum(p.numel() for p in model.parameters())
    begun = f", resumed at epoch {state.epoch + 1}, block {state.position}" if state.step else ""
    return (
        f"run {state.run_id}: {params:,} parameters on {device_name(device)}, {len(state.features)} features, "
        f"context {model.context} days{begun}\n{' | '.join(dates)}\n"
        f"loader: {source}, {AHEAD} blocks ahead"
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that receives the number of each SIGINT or SIGTERM; a second one acts at once."""
    received: list[int] = []
    previous = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _epoch(
    config: Config, plan: Plan, source: Source, model: ATFT, objective: Objective, optimizer: torch.optim.Optimizer,
    running: torch.Tensor, state: State, device: torch.device, run: Path, check: Check, stop: list[int],
    console: Console,
) -> Stages:  # fmt: skip
    """Train on the blocks of the current epoch that are left; gives what the loader's stages spent."""
    blocks = plan.epoch(state.epoch)
    logged = torch.tensor([TERMS.index(term) for term in config.objective.weights()], device=device)
    model.train()
    last = run / "checkpoints" / LAST
    saved = time.perf_counter()
    display = live(console)
    loading = source.load(plan.part, blocks.share(state.position), plan.days, config.data.context)
    with display.progress, loading as loader:
        begun = time.perf_counter()
        for batch in loader:
            check.so_far()
            waited = time.perf_counter()
            present = (batch.presence > 0).float()

            # Dropout draws from (seed, step) alone, so that a resumed run needs no stored generator state.
            torch.manual_seed(mix(config.train.seed, state.step, 4) >> 1)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, (state.epoch + state.position / len(blocks)) / config.train.epochs)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                scores, quantiles = model(batch.x, present)
            rotations = draw_rotations(objective, len(batch.y), config.train.seed, state.step, device)
            loss, terms = objective(scores, quantiles, batch.y, rotations)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
            optimizer.step()
            running += torch.cat([loss.detach()[None], terms[logged]])

            state.step += 1
            state.position += 1
            state.samples += batch.samples
            state.rows += batch.presence.numel()
            now = time.perf_counter()
            state.seconds["wait"] += waited - begun
            state.seconds["train"] += now - begun
            if display.due():
                mean_loss = _finite_loss(running, state, run)
                rate, wait = state.samples / state.seconds["train"], state.seconds["wait"] / state.seconds["train"]
                display.show(state.epoch, config.train.epochs, state.position, len(blocks), rate, wait, mean_loss)
            if stop or now - saved > config.train.checkpoint_seconds:
                save_checkpoint(last, state, model, optimizer, running)
                saved = time.perf_counter()
            if stop:
                name = signal.Signals(stop[0]).name
                raise Stopped(f"{run}: stopped by {name} in epoch {state.epoch + 1}. Go on with --resume --out {run}")
            begun = time.perf_counter()
    return loader.stages


def _finite_loss(running: torch.Tensor, state: State, run: Path) -> float:
    mean = float(running[0]) / state.position
    if not math.isfinite(mean):
        what = f"{run}: the loss is {mean} in epoch {state.epoch + 1}, step {state.step}"
        raise RunFailed(f"{what}. Lower train.learning_rate, or check the cache's features with `cache inspect`")
    return mean


def _validate(
    config: Config, source: Source, split: Split, model: ATFT, optimizer: torch.optim.Optimizer, running: torch.Tensor,
    state: State, run: Path, writer: Any, console: Console, stages: Stages,
) -> None:  # fmt: skip
    """Score every day of the validation part, keep the best model, decide whether to stop."""
    _finite_loss(running, state, run)
    begun = time.perf_counter()
    valid = evaluate_scores(source.panel, split.valid, score_part(model, source, split.valid, config))
    figure = sum(valid[str(h)]["rank_ic"] for h in state.horizons) / len(state.horizons)
    if not math.isfinite(figure):
        what = f"{run}: validation RankIC is {figure} after epoch {state.epoch + 1}"
        raise RunFailed(f"{what}. Scores are constant, or no validation day has 20 samples")
    weights = config.objective.weights()
    means = dict(zip(["loss", *weights], (running / state.position).tolist(), strict=True))
    line = {
        "epoch": state.epoch + 1,
        "step": state.step,
        "learning_rate": optimizer.param_groups[0]["lr"],
        "weights": weights,
        "train": means,
        "valid": valid,
        "valid_rank_ic": figure,
        "best": state.best is None or figure > state.best,
    }
    state.history.append(finite(line))
    state.stale = 0 if line["best"] else state.stale + 1
    state.best = figure if line["best"] else state.best
    state.epoch, state.position = state.epoch + 1, 0
    state.finished = state.epoch == config.train.epochs or state.stale >= config.train.patience
    state.seconds["validation"] += time.perf_counter() - begun
    running.zero_()
    if line["best"]:
        save_checkpoint(run / "checkpoints" / BEST, state, model, optimizer, running)
    save_checkpoint(run / "checkpoints" / LAST, state, model, optimizer, running)
    write_metrics(run, state)
    log_scalars(writer, line, state)
    per_horizon = ", ".join(f"h={h} {valid[str(h)]['rank_ic']:.4f}" for h in state.horizons)
    console.print(
        f"epoch {state.epoch}: loss {means['loss']:.4f}, validation RankIC {figure:.4f} ({per_horizon})"
        f"{', best so far' if line['best'] else ''}; {state.samples / state.seconds['train']:,.0f} samples/s, "
        f"data wait {state.seconds['wait'] / state.seconds['train']:.1%}, bottleneck {stages.bottleneck}"
    )


def _summarise(
    config: Config, source: Source, split: Split, model: ATFT, state: State, device: torch.device, run: Path
) -> None:
    """Evaluate the best checkpoint and write summary.json."""
    best, tensors = load_checkpoint(run / "checkpoints" / BEST)
    if best.run_id != state.run_id:
        raise RunFailed(f"{run}: best.safetensors belongs to run {best.run_id}, not to {state.run_id}")
    restore_model(model, tensors, run / "checkpoints" / BEST)
    summary = {
        "run_id": state.run_id,
        "cache_id": state.cache_id,
        "config_hash": state.config_hash,
        "git": git_revision(),
        "device": device_name(device),
        "seed": config.train.seed,
        "params": sum(p.numel() for p in model.parameters()),
        "epochs": state.epoch,
        "best_epoch": best.epoch,
        "splits": {
            name: evaluate_scores(source.panel, part, score_part(model, source, part, config))
            for name, part in (("valid", split.valid), ("test", split.test))
        },
        "throughput": throughput(state, device),
    }
    write_atomically(run / "summary.json", json.dumps(finite(summary), indent=2, allow_nan=False).encode())
