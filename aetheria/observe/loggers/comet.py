"""A logger that writes archives for Comet (extra `comet`)."""

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.service import Point, ServiceLogger
from aetheria.observe.loggers.settings import flatten
from aetheria.plugins import register_logger
from aetheria.plugins.packages import require_package


@register_logger("comet")
class CometLogger(ServiceLogger):
    """Writes one Comet experiment offline, into `comet/`: an archive for each start of the run.

    `comet upload RUN/comet/*.zip` sends them, and then reads the API key. The experiment's key is
    in the snapshot, so the archives of a resumed run belong to one experiment.

    Args:
        context: what every logger is given.
        project: the Comet project.
        workspace: the Comet workspace; None: that of the one who uploads.

    Raises:
        AetheriaError: comet_ml is not installed.
    """

    def __init__(
        self, context: RunContext, project: str = "aetheria", workspace: str | None = None
    ):
        super().__init__(context, "comet")
        require_package("loggers.comet", "comet_ml", "comet")
        self._project, self._workspace = project, workspace
        self._folder = context.run_dir / "comet"
        self._experiment: Any = None

    def _open(self, run_id: str | None) -> str:
        # Read as comet_ml is imported: otherwise it patches scikit-learn, PyTorch and others.
        os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")
        import comet_ml

        nothing: dict[str, Any] = dict.fromkeys(
            (
                "log_code",
                "log_graph",
                "log_env_details",
                "log_git_metadata",
                "log_git_patch",
                "parse_args",
                "auto_param_logging",
                "auto_metric_logging",
                "auto_output_logging",
            ),
            False,
        )
        self._folder.mkdir(exist_ok=True)
        for file in self._folder.glob("*.zip"):
            if not _messages(file):  # as a start leaves it that was killed; no upload takes it
                file.unlink()
        self._experiment = comet_ml.start(
            project_name=self._project,
            workspace=self._workspace,
            experiment_key=run_id,
            mode="get_or_create",  # no archive is left of a start that was killed
            online=False,
            experiment_config=comet_ml.ExperimentConfig(
                offline_directory=str(self._folder), display_summary_level=0, **nothing
            ),
        )
        self._experiment.log_parameters(flatten(self._context.config))
        return self._experiment.get_key()

    def _last_steps(self) -> dict[str, int] | None:
        last = {}
        for file in sorted(self._folder.glob(f"{self._run_id}*.zip"), key=os.path.getmtime):
            for message in map(json.loads, _messages(file)):
                if message["type"] == "metric_msg":
                    metric = message["payload"]["metric"]
                    last[metric["metricName"]] = metric["step"]
        return last

    def _send(self, points: Sequence[Point]) -> None:
        for point in points:
            self._experiment.log_metrics(dict(point.values), step=point.step, epoch=point.epoch)

    def _close(self, status: str) -> None:
        self._experiment.log_other("status", status)
        self._experiment.end()


def _messages(file: Path) -> list[bytes]:
    """The lines that an archive has of an experiment; none: it is empty or was not completed."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read("messages.json").splitlines()
    except (KeyError, zipfile.BadZipFile):
        return []
