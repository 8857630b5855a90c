"""Log a training to MLflow: settings as parameters, validations as metrics, the run's files as artifacts.

    engine.train(..., callbacks=[MLflow(experiment="nasdaq", tracking_uri="sqlite:///mlflow.db")])

A resumed run goes on in the MLflow run that it began, found by its run id. Artifacts lie where the store has them: for
a database file, in ./mlruns. Needs `pip install 'atft-engine[mlflow]'`.
"""

import time
from typing import Any

from engine.callbacks.flat import finite_numbers, settings_of
from engine.callbacks.protocol import Callback, EpochTraining, Training
from engine.errors import Stopped
from loaders.errors import InputError

TAG = "atft_engine.run_id"
ARTIFACTS = ("config.toml", "metrics.jsonl", "summary.json")
PARAMETERS, LENGTH = 100, 6000  # of one call; longest value that every store takes


class MLflow(Callback):
    """MLflow's tracking of a run.

    Args:
        experiment: its name; made where there is none.
        tracking_uri: of the store, such as sqlite:///mlflow.db or http://host:5000; default: MLflow's own.

    Raises InputError where MLflow is not installed.
    """

    def __init__(self, experiment: str = "atft-engine", tracking_uri: str | None = None) -> None:
        try:
            import mlflow  # noqa: F401, to fail now rather than after the cache is open
        except ModuleNotFoundError as error:
            if error.name != "mlflow":
                raise
            raise InputError("mlflow", "MLflow is not installed", "pip install 'atft-engine[mlflow]'") from error
        self.experiment, self.tracking_uri = experiment, tracking_uri
        self.client: Any = None
        self.run_id: str | None = None

    def on_start(self, run: Training) -> None:
        """Begin a run, or find the one that a resumed training began."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(self.tracking_uri)
        experiment = self.client.get_experiment_by_name(self.experiment)
        found = self.client.create_experiment(self.experiment) if experiment is None else experiment.experiment_id
        begun = self.client.search_runs([found], f"tags.`{TAG}` = '{run.state.run_id}'", max_results=1)
        if begun:
            self.run_id = begun[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            return
        tags = {TAG: run.state.run_id, "cache_id": run.state.cache_id, "config_hash": run.state.config_hash}
        self.run_id = self.client.create_run(found, tags=tags, run_name=run.folder.name).info.run_id
        settings = [Param(name, str(value)[:LENGTH]) for name, value in settings_of(run.config).items()]
        for begin in range(0, len(settings), PARAMETERS):
            self.client.log_batch(self.run_id, params=settings[begin : begin + PARAMETERS])

    def on_epoch(self, run: Training, result: EpochTraining) -> None:
        """Log the losses."""
        self._log(finite_numbers({"train": result.losses, "learning_rate": result.learning_rate}), result.step)

    def on_validation(self, run: Training, line: dict[str, Any]) -> None:
        """Log the metrics of the validation part."""
        self._log(finite_numbers({"valid": line["valid"], "valid_rank_ic": line["valid_rank_ic"]}), line["step"])

    def on_end(self, run: Training, summary: dict[str, Any]) -> None:
        """Log the metrics of the best checkpoint and the run's files."""
        best = {f"best_{name}": metrics for name, metrics in summary["splits"].items()}
        self._log(finite_numbers(best), run.state.step)
        for name in ARTIFACTS:
            self.client.log_artifact(self.run_id, str(run.folder / name))
        self.client.set_terminated(self.run_id, "FINISHED")

    def on_failure(self, run: Training, error: BaseException) -> None:
        """End the run as failed, or as killed where a signal stopped it."""
        if self.client is not None and self.run_id is not None:
            self.client.set_terminated(self.run_id, "KILLED" if isinstance(error, Stopped) else "FAILED")

    def _log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])
