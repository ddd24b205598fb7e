"""A logger for Trackio (extra `trackio`)."""

import uuid
from collections.abc import Sequence
from typing import Any

from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.service import Point, ServiceLogger
from aetheria.observe.loggers.settings import check_options, refuse_credentials
from aetheria.plugins import register_logger
from aetheria.plugins.packages import require_package

# Arguments of trackio.init that this logger gives, and two that hold secrets.
_SET_HERE = ("name", "config", "resume", "server_url", "webhook_url")


@register_logger("trackio")
class TrackioLogger(ServiceLogger):
    """Logs to one run of Trackio; its name is in the snapshot, so a resumed run logs to the same.

    Trackio keeps it in its own folder, which TRACKIO_DIR names; `trackio show` draws it. A server
    with its token is read by Trackio from TRACKIO_SERVER_URL, a token for a Space from HF_TOKEN.

    Args:
        context: what every logger is given.
        project: the Trackio project.
        options: further arguments of `trackio.init`, except name, config, resume, server_url
            and webhook_url.

    Raises:
        AetheriaError: trackio is not installed, an argument is not one of these, or is a secret.
    """

    def __init__(self, context: RunContext, project: str = "aetheria", **options: object):
        super().__init__(context, "trackio")
        require_package("loggers.trackio", "trackio", "trackio")
        import trackio

        refuse_credentials("loggers.trackio", options, "HF_TOKEN")
        check_options("loggers.trackio", options, trackio.init, _SET_HERE)
        self._trackio: Any = trackio
        self._project, self._options = project, options
        self._run: Any = None

    def _open(self, run_id: str | None) -> str:
        # Trackio finds a run by its name, and of several runs of one name takes the latest.
        folder = self._context.run_dir.absolute()
        name = run_id or f"{folder.parent.name}-{folder.name}-{uuid.uuid4().hex[:6]}"
        self._run = self._trackio.init(
            project=self._project,
            name=name,
            config=dict(self._context.config),
            resume="allow" if run_id else "never",
            **self._options,
        )
        return name

    def _last_steps(self) -> dict[str, int] | None:
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import get_storage_mode

        if self._run.url is not None or get_storage_mode() != "sqlite":
            return None  # a server has it, or files that nobody has read yet
        rows = SQLiteStorage.get_logs(self._project, self._run_id)
        return {name: row["step"] for row in rows for name in row}

    def _send(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log({"epoch": point.epoch, **point.values}, step=point.step)

    def _close(self, status: str) -> None:
        self._run.finish()
