"""Log a training to Weights & Biases: settings as its config, validations as its history, the end as its summary.

    engine.train(..., callbacks=[WandB(project="nasdaq", mode="offline")])

The id of the W&B run is the engine's run id, so a resumed run goes on in it. Needs `pip install 'atft-engine[wandb]'`.
"""

from typing import Any, Literal

from engine.callbacks.flat import finite_numbers, settings_of
from engine.callbacks.protocol import Callback, EpochTraining, Training
from loaders.errors import InputError

Mode = Literal["online", "offline", "disabled"]


class WandB(Callback):
    """Weights & Biases' tracking of a run; its local files lie in the run's folder.

    Args:
        project: its name.
        mode: online, offline (`wandb sync` uploads later) or disabled; default: W&B's own.

    Raises InputError where wandb is not installed.
    """

    def __init__(self, project: str = "atft-engine", mode: Mode | None = None) -> None:
        try:
            import wandb  # noqa: F401, to fail now rather than after the cache is open
        except ModuleNotFoundError as error:
            if error.name != "wandb":
                raise
            raise InputError("wandb", "wandb is not installed", "pip install 'atft-engine[wandb]'") from error
        self.project, self.mode = project, mode
        self.logged: Any = None

    def on_start(self, run: Training) -> None:
        """Begin the run, or go on with the one that a resumed training began."""
        import wandb

        identity = {"run_id": run.state.run_id, "cache_id": run.state.cache_id, "config_hash": run.state.config_hash}
        self.logged = wandb.init(
            project=self.project, mode=self.mode, id=run.state.run_id, name=run.folder.name, resume="allow",
            dir=str(run.folder), config=settings_of(run.config) | identity, settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def on_epoch(self, run: Training, result: EpochTraining) -> None:
        """Log the losses, in one step of the history with the validation that follows."""
        values = finite_numbers({"train": result.losses, "learning_rate": result.learning_rate})
        self.logged.log(values, step=result.step, commit=False)

    def on_validation(self, run: Training, line: dict[str, Any]) -> None:
        """Log the metrics of the validation part."""
        values = finite_numbers({"valid": line["valid"], "valid_rank_ic": line["valid_rank_ic"]})
        self.logged.log(values, step=line["step"])

    def on_end(self, run: Training, summary: dict[str, Any]) -> None:
        """Put the metrics of the best checkpoint into the summary."""
        self.logged.summary.update(finite_numbers({f"best_{name}": of for name, of in summary["splits"].items()}))
        self._finish(0)

    def on_failure(self, run: Training, error: BaseException) -> None:
        """End the W&B run as failed."""
        if self.logged is not None:
            self._finish(1)

    def _finish(self, code: int) -> None:
        self.logged.finish(exit_code=code)
        self.logged = None
