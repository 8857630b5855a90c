"""What a training tells its callbacks, and what happens where one of them raises."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from rich.console import Console

from engine.checkpoint import State
from engine.config import Config
from engine.errors import RunFailed
from engine.own.names import find
from loaders.errors import InputError

READY = {"mlflow": "engine.callbacks.mlflow:MLflow", "wandb": "engine.callbacks.wandb:WandB"}


@dataclass(frozen=True)
class EpochTraining:
    """The training part of an epoch, before its validation."""

    epoch: int  # from 1, as in the line of metrics.jsonl
    step: int
    phase: str
    losses: dict[str, float]  # "loss" and its terms, means over the epoch
    learning_rate: float  # of the last step
    seconds: float


class Log(Protocol):
    """Where a training reports to."""

    @property
    def console(self) -> Console: ...


class Training(Protocol):
    """What callbacks are given of a training."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        ...

    @property
    def config(self) -> Config:
        """Its settings, resolved."""
        ...

    @property
    def state(self) -> State:
        """Where it stands."""
        ...

    @property
    def log(self) -> Log: ...

    def save_last(self) -> None:
        """Write the checkpoint to resume from."""
        ...


class Callback:
    """Base of callbacks: override what you need. `run` has `folder`, `config` and `state`; change none of them.

    They are called by the first rank alone, between two pieces of work, so a slow one makes the training wait.
    """

    def on_start(self, run: Training) -> None:
        """The run's folder and config.toml are written; `run.state.step` is above 0 where it was resumed."""

    def on_epoch(self, run: Training, result: EpochTraining) -> None:
        """An epoch is trained, and not validated yet."""

    def on_validation(self, run: Training, line: dict[str, Any]) -> None:
        """An epoch is validated and saved; `line` is that of metrics.jsonl."""

    def on_end(self, run: Training, summary: dict[str, Any]) -> None:
        """The run is finished; `summary` is summary.json."""

    def on_failure(self, run: Training, error: BaseException) -> None:
        """The training ends before its end: by an error, a signal, or another callback."""


@dataclass(frozen=True)
class Callbacks:
    """The callbacks of a run, called one after the other.

    One that raises ends the training with RunFailed, after the run has been saved to resume from.
    """

    every: tuple[Callback, ...] = ()

    @contextmanager
    def of(self, run: Training) -> Iterator[None]:
        """Tell of the start, and of a failure if the `with` ends by one."""
        try:
            self._call("on_start", run, run)
            yield
        except BaseException as error:
            for callback in self.every:
                try:
                    callback.on_failure(run, error)
                except Exception as second:  # must not hide the first
                    run.log.console.print(f"{_what(callback, 'on_failure')} raised {_last_line(second)}")
            raise

    def on_epoch(self, run: Training, result: EpochTraining) -> None:
        """An epoch is trained."""
        self._call("on_epoch", run, run, result)

    def on_validation(self, run: Training, line: dict[str, Any]) -> None:
        """An epoch is validated."""
        self._call("on_validation", run, run, line)

    def on_end(self, run: Training, summary: dict[str, Any]) -> None:
        """The run is finished."""
        self._call("on_end", run, run, summary)

    def _call(self, hook: str, run: Training, *arguments: Any) -> None:
        for callback in self.every:
            try:
                getattr(callback, hook)(*arguments)
            except InputError:  # such as a package that is not installed
                raise
            except Exception as error:  # of the user's code, which may raise anything
                _fail(run, _what(callback, hook), error, finished=hook == "on_end")


def named_callbacks(names: Sequence[str]) -> list[Callback]:
    """The callbacks of the command line: mlflow, wandb, or `package.module:object`, an instance or what makes one.

    Raises InputError for a name that cannot be imported, or is no callback.
    """
    found = []
    for name in names:
        thing = find(READY.get(name, name), "--callback")
        callback = thing() if callable(thing) and not isinstance(thing, Callback) else thing
        check_callback(callback, name)
        found.append(callback)
    return found


def check_callback(callback: object, name: str) -> None:
    """Raise InputError for what is no callback."""
    if not isinstance(callback, Callback):
        what = f"{name} is {type(callback).__name__}, no engine.Callback"
        raise InputError("callbacks", what, "Derive it from engine.Callback, and give an instance")


def _fail(run: Training, what: str, error: Exception, finished: bool) -> NoReturn:
    if finished:
        saved = "The run is finished and whole"
    else:
        run.save_last()
        saved = f"The run is saved; resume with --resume --out {run.folder}"
    raise RunFailed(f"{run.folder}: {what} raised {_last_line(error)}. {saved}") from error


def _what(callback: Callback, hook: str) -> str:
    return f"{type(callback).__name__}.{hook}"


def _last_line(error: BaseException) -> str:
    """The last line of an error's traceback, and where it was raised."""
    last = " ".join(traceback.format_exception_only(error)[-1].split())
    frames = traceback.extract_tb(error.__traceback__)
    return f"{last} ({frames[-1].filename}:{frames[-1].lineno})" if frames else last
