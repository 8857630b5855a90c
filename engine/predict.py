"""Scores of a trained model, for every present row of a part of the panel.

N rows, S codes, D days, H horizons
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.checkpoint import BEST, LAST, load_checkpoint, restore_model
from engine.config import Config, config_hash, load_config
from engine.distributed import ALONE, World
from engine.model.atft import ATFT
from engine.model.ensemble import Ensemble, build_ensemble
from engine.model.neutral import Neutral
from engine.online import Float32, online_scores, online_slopes
from engine.scores import Scores, present_rows, scores_of
from engine.threads import one_thread_each
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Int, Panel, open_panel
from loaders.plan import Block, scoring_blocks
from loaders.source import Source, open_source
from loaders.split import Days, Split, gap_days, split_by_date, split_by_fraction, walk_forward

PIECE = 1 << 12  # codes x scored days that a CPU's core computes at a time


def make_split(config: Config, panel: Panel) -> Split:
    """The dates of training, validation and test that a configuration means on a panel. Raises InputError if empty."""
    gap = gap_days(config.data.context, panel.manifest.horizons)
    split = config.split
    if split.valid_start is not None and split.test_start is not None:
        return split_by_date(panel.calendar, split.valid_start, split.test_start, split.test_end, gap)
    if split.folds:
        folds = walk_forward(panel.calendar, split.folds, split.valid_fraction, split.test_fraction, gap, split.rolling)
        return folds[split.fold]
    return split_by_fraction(panel.calendar, split.valid_fraction, split.test_fraction, gap)


def online_part(
    config: Config, panel: Panel, part: Days, neutral: Neutral, slopes: Float32 | None = None
) -> Float32 | None:
    """What the online regression adds to the scores of a part [N, H], held back like them; None where it has no say.

    Args:
        slopes: of the part's days, where they are known already.
    """
    if not config.model.online:
        return None
    slopes = online_slopes(panel, part, ids_of(config, panel)) if slopes is None else slopes
    return config.model.online * online_scores(panel, part, slopes, neutral)


def ids_of(config: Config, panel: Panel) -> list[int]:
    """Places of the features that are ids: as numbers they mean nothing."""
    return [panel.manifest.features.index(name) for name in config.model.categories]


@torch.no_grad()
def score_part(
    model: Ensemble, source: Source, part: Days, config: Config, online: Float32 | None, world: World = ALONE,
    judged: bool = False,
) -> Float32:  # fmt: skip
    """Scores [N, H] of all present rows of a part, ordered by day and code; dropout off, every day's codes together.

    Each rank scores a stretch of the part's days, and all of them get all scores.

    Args:
        online: what is added, see `online_part`.
        judged: only what figures are made of is needed: rows of the universe. A code that has none in a block's days is
            then left out and its rows are NaN, unless the model's codes see one another.

    Raises RankLost.
    """
    was_training = model.training
    model.eval()
    panel, context = source.panel, config.data.context
    # Blocks of equal length: a last one of few days would be computed to its full length all the same.
    days = -(-len(part) // -(-len(part) // config.data.scoring_days))
    rows = present_rows(panel, part) if judged and _apart(model) else None
    blocks = scoring_blocks(panel, part, days) if rows is None else _blocks_of_universe(panel, part, days, *rows)
    values, here = [], []
    loading = source.load(part, world.stretch(blocks), days, context)
    with _in_pieces(model, days) as pieces, loading as loader:
        for batch in loader:
            present = batch.presence > 0
            with torch.inference_mode():  # not around the loader, whose memory training uses again
                scores, _ = pieces(batch.x, present.float(), (batch.presence == SCORED).float())
            inside = slice(0, part.stop - batch.block.day)
            values.append(scores[:, inside].float().transpose(0, 1).flatten(0, 1))
            here.append(present[:, context - 1 :][:, inside].T.flatten())
    model.train(was_training)
    # Selected at the end: the device is waited for once, not block by block.
    none = torch.empty(0, model.horizons, device=next(model.parameters()).device)
    found = world.joined(torch.cat(values)[torch.cat(here)] if values else none).cpu().numpy()
    found = found if rows is None else _among_present(found, blocks, days, *rows[1:])
    return found if online is None else found + online


def _blocks_of_universe(panel: Panel, part: Days, days: int, rows: Int, day: Int, code: Int) -> list[Block]:
    """`scoring_blocks` without the codes that are context alone on a block's days; of what `present_rows` gives."""
    universe = panel.presence[rows] == SCORED
    day, code = day[universe], code[universe]
    starts = range(part.start, part.stop, days)
    found = ((start, np.unique(code[slice(*np.searchsorted(day, [start, start + days]))])) for start in starts)
    return [Block(start, codes) for start, codes in found if len(codes)]


def _among_present(found: Float32, blocks: list[Block], days: int, day: Int, code: Int) -> Float32:
    """Scores of the blocks' codes in their places among all present rows [N, H], NaN elsewhere."""
    scored = np.zeros(len(day), bool)
    for block in blocks:
        here = slice(*np.searchsorted(day, [block.day, block.day + days]))
        scored[here] = np.isin(code[here], block.codes)
    every = np.full((len(day), found.shape[1]), np.nan, np.float32)
    every[scored] = found
    return every


def _apart(model: Ensemble) -> bool:
    """Whether no code sees another one."""
    return model.first.market is None or "market" in model.first.off


class _InPieces(nn.Module):
    """A model whose codes do not see one another, on some of them at a time, each piece on one thread.

    All codes of a block at once make arrays of hundreds of megabytes between the layers: far beyond any cache, and of
    memory that the system hands out anew each time. Threads that share the operators of a small piece would wait for
    one another at each, and many times as long as they compute where another process takes a core.
    """

    def __init__(self, member: ATFT, codes: int, threads: ThreadPoolExecutor) -> None:
        super().__init__()
        self.member, self.codes, self.threads = member, codes, threads

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        @torch.inference_mode()
        def piece(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
            return self.member(x, present)

        pieces = self.threads.map(piece, x.split(self.codes), present.split(self.codes))
        scores, quantiles = zip(*pieces, strict=True)
        return torch.cat(scores), torch.cat(quantiles)


@contextmanager
def _in_pieces(model: Ensemble, days: int) -> Iterator[Ensemble]:
    """The same model; on a CPU its members take codes in pieces, where they may."""
    if not _apart(model) or next(model.parameters()).device.type != "cpu":
        yield model
        return
    codes = max(PIECE // days, 1)
    with one_thread_each(torch.get_num_threads(), "score") as threads:
        members = [_InPieces(member, codes, threads) for member in model.members]  # type: ignore[arg-type]
        yield Ensemble(members, model.neutral, model.deviations)  # type: ignore[arg-type]


def gathering(device: torch.device) -> int | None:
    """Threads that form blocks: one beside a model that computes on the same cores, else all (None)."""
    return 1 if device.type == "cpu" else None


def resolve_device(name: str) -> torch.device:
    """The torch device of `train.device`; "auto" is CUDA where there is one. Raises InputError for an absent device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("train.device", f"{name!r} is no device", "Use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError("train.device", f"{name!r} is not available here", "Use auto or cpu")
    return device


def check_agreement(features: list[str], horizons: list[int], panel: Panel, where: str) -> None:
    """Raise InputError where a run and a cache differ in the names or order of features, or in horizons."""
    manifest = panel.manifest
    if list(features) != manifest.features:
        odd = next(
            (f"{a} and {b}" for a, b in zip(features, manifest.features, strict=False) if a != b), "their number"
        )
        what = f"expects {len(features)} features, {panel.folder} has {len(manifest.features)}; first difference: {odd}"
        raise InputError(where, what, "Use the cache it was made for, or build one with the same recipe")
    if list(horizons) != manifest.horizons:
        what = f"expects horizons {list(horizons)}, {panel.folder} has {manifest.horizons}"
        raise InputError(where, what, "Use the cache it was made for, or build one with --horizons")


def check_categories(config: Config, panel: Panel) -> None:
    """Raise InputError for a feature of model.categories that the cache lacks, or whose values are not such ids."""
    names, where = panel.manifest.features, "model.categories"
    for name, count in config.model.categories.items():
        if name not in names:
            raise InputError(where, f"no feature {name!r} in {panel.folder}", "`cache inspect` lists the features")
        for code in range(len(panel.offset)):
            rows = panel.rows_of(code, 0, len(panel.calendar))
            values = panel.features[rows, names.index(name)].astype(np.float32)
            wrong = ~((values >= 0) & (values < count) & (values == np.floor(values)))
            if wrong.any():
                day = int(np.argmax(wrong))
                of = f"{panel.manifest.codes[code]} on {panel.calendar[panel.first[code] + day]}"
                what = f"{name} of {of} is {values[day]:g}, not one of 0..{count - 1}, in {panel.folder}"
                raise InputError(where, what, "Number the ids from 0 on, or say that there are more")


def load_run(run: Path, arrow: str | None) -> tuple[Config, Panel, Ensemble, str]:
    """Configuration, panel, best model (on the CPU) and run id of a run folder.

    Raises InputError where the folder holds no trained run, files of two runs, or the cache does not fit.
    """
    path = run / "checkpoints" / BEST
    if not (run / "config.toml").exists():
        raise InputError(str(run), "no run here (config.toml is missing)", "Name a folder made by `atft-engine train`")
    config = load_config(run / "config.toml", [], arrow)
    state, tensors = load_checkpoint(path)
    last, _ = load_checkpoint(run / "checkpoints" / LAST)
    if state.run_id != last.run_id or state.config_hash != config_hash(config):
        raise InputError(
            str(path), "belongs to another run than config.toml and last.safetensors", "Train the run again"
        )
    panel = open_panel(config.data.arrow, config.data.store)
    check_agreement(state.features, state.horizons, panel, str(run))
    check_categories(config, panel)
    model = build_ensemble(config, len(state.features), len(state.horizons))
    restore_model(model, tensors, path)
    model.bypass(state.off)
    return config, panel, model, state.run_id


def predict_run(run: Path, arrow: str | None, split_name: str, member: int | None = None) -> Scores:
    """Scores of a run's best checkpoint on one part (train, valid or test) of its own or another cache.

    Args:
        member: of a run of several models, this one alone; the first is 0.

    Raises InputError where `load_run` does, and for a member that the run does not have.
    """
    config, panel, model, run_id = load_run(run, arrow)
    if member is not None:
        if member >= len(model.members):
            what = f"the run has {len(model.members)} models, and so no number {member}"
            raise InputError("--member", what, "Count from 0, or leave it out for the average of all")
        model = Ensemble([model.members[member]], model.neutral, model.deviations)  # type: ignore[list-item]
    device = resolve_device(config.train.device)
    part = make_split(config, panel).part(split_name)
    online = online_part(config, panel, part, model.neutral)
    with open_source(panel, device, config.data.tier, config.data.device_share, threads=gathering(device)) as source:
        values = score_part(model.to(device), source, part, config, online)
    return scores_of(panel, part, values, split=split_name, run_id=run_id)
