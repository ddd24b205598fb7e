"""A logger for MLflow (extra `mlflow`)."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aetheria.errors import AetheriaError
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.service import Point, ServiceLogger
from aetheria.observe.loggers.settings import flatten, refuse_credentials
from aetheria.plugins import register_logger
from aetheria.plugins.packages import require_package

_STATUS = {"completed": "FINISHED", "preempted": "KILLED"}  # any other: FAILED
_NOT_IN_NAMES = re.compile(r"[^\w\-./: ]")
_MAX_PARAMS, _MAX_METRICS = 100, 1000  # in one call
_MAX_TEXT = 6000  # characters of a parameter


@register_logger("mlflow")
class MlflowLogger(ServiceLogger):
    """Logs to one MLflow run; its id is in the snapshot, so a resumed run logs to the same one.

    The config's values are the run's parameters. A user name and a password for a tracking server
    are read by MLflow, from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.

    Args:
        context: what every logger is given.
        tracking_uri: a database or a server; None: the variable MLFLOW_TRACKING_URI, else
            `sqlite:///mlflow.db` in the current folder, as MLflow's own default is.
        experiment: the MLflow experiment, which is made if there is none.
        run_name: the run's name in MLflow; None: the run folder's.

    Raises:
        AetheriaError: MLflow is not installed, or the address of the server has a password in it.
    """

    def __init__(
        self,
        context: RunContext,
        tracking_uri: str | None = None,
        experiment: str = "aetheria",
        run_name: str | None = None,
    ):
        super().__init__(context, "mlflow")
        require_package("loggers.mlflow", "mlflow", "mlflow")
        given = {"tracking_uri": tracking_uri}
        refuse_credentials("loggers.mlflow", given, "MLFLOW_TRACKING_URI")
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._uri = uri or f"sqlite:///{Path('mlflow.db').absolute()}"
        if self._uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql"):
            for package in ("sqlalchemy", "alembic"):  # mlflow-skinny does not install them
                require_package("loggers.mlflow", package, "mlflow")
        self._experiment = experiment
        folder = context.run_dir.absolute()
        self._name = run_name or f"{folder.parent.name}/{folder.name}"
        self._client: Any = None

    def _open(self, run_id: str | None) -> str:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._client = MlflowClient(self._uri)
            if run_id is not None:
                self._client.update_run(run_id, status="RUNNING")
                return run_id
            return self._begin()
        except MlflowException as error:
            asked = f"the MLflow run {run_id}" if run_id else "an MLflow store"
            raise AetheriaError(
                f"loggers.mlflow: expected {asked} at the tracking URI, got {_first_line(error)}; "
                "set tracking_uri or MLFLOW_TRACKING_URI to where it is"
            ) from error

    def _begin(self) -> str:
        from mlflow.entities import Param

        known = self._client.get_experiment_by_name(self._experiment)
        if known is None:
            number = self._client.create_experiment(self._experiment)
        else:
            number = known.experiment_id
        run = self._client.create_run(number, run_name=self._name)
        params = [
            Param(self._allowed(name), str(value)[:_MAX_TEXT])
            for name, value in flatten(self._context.config).items()
        ]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run.info.run_id, params=params[start : start + _MAX_PARAMS])
        return run.info.run_id

    def _last_steps(self) -> dict[str, int] | None:
        names = self._client.get_run(self._run_id).data.metrics
        last = {}
        for name in names:
            history = self._client.get_metric_history(self._run_id, name)
            last[name] = max(metric.step for metric in history)
        return last

    def _allowed(self, name: str) -> str:
        return _NOT_IN_NAMES.sub("_", name)

    def _send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(point.time * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _MAX_METRICS])

    def _close(self, status: str) -> None:
        self._client.set_terminated(self._run_id, _STATUS.get(status, "FAILED"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
