"""TensorBoard curves through tensorboardX, which needs neither TensorFlow nor TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aetheria.events import (
    EvaluationCompleted,
    Event,
    RolledBack,
    RunEnded,
    RunStarted,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.records import metric_values, rates
from aetheria.observe.loggers.retrying_file import RetryingFile
from aetheria.plugins import register_logger

_SCHEME = "retrying"  # the prefix of a file name by which tensorboardX chooses the factory below
_FLUSH_SECONDS = 30.0  # how far a viewer may lag behind the run


class _RetryingFileFactory:
    """Opens the files that tensorboardX writes to."""

    @staticmethod
    def open(path: str) -> RetryingFile:
        return RetryingFile(Path(path.removeprefix(f"{_SCHEME}:")))


@register_logger("tensorboard")
class TensorBoardLogger:
    """Writes event files to `tensorboard/`, with tags such as `train/loss` and `eval/accuracy`.

    There is one numbered file for each start of the run: TensorBoard reads files in the order of
    their names. tensorboardX's SummaryWriter is not used, because it gives two starts within one
    second the same file name, and its flush() does not wait for its queue (seen with 2.6.5).
    """

    def __init__(self, context: RunContext):
        self._folder = context.run_dir / "tensorboard"
        self._writer: Any = None
        self._record: Any = None
        self._flushed_at = 0.0

    def notify(self, event: Event) -> None:
        """Writes the values of an event with metrics."""
        match event:
            case RunStarted():
                self._open(event.last_logged_step)
            case RolledBack():
                self._drop_after(event.last_logged_step)
            case TrainMetrics():
                values = {**metric_values(event), **rates(event)}
                self._write("train", values, event.progress.step)
            case EvaluationCompleted():
                self._write("eval", metric_values(event), event.progress.step)
            case RunEnded() if self._writer is not None:
                self._writer.close()

    def export_state(self) -> dict[str, Any]:
        """Flushes, so that a kill after the snapshot loses nothing from before it. No state."""
        self._writer.flush()
        return {}

    def _open(self, last_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.record_writer import register_writer_factory

        register_writer_factory(_SCHEME, _RetryingFileFactory)
        number = len(list(self._folder.glob("events.*")))
        self._writer = EventsWriter(f"{_SCHEME}:{self._folder / f'events.{number:06}'}")
        # A killed process may have written points of later steps than that of its last snapshot.
        self._drop_after(last_step)

    def _drop_after(self, last_step: int) -> None:
        """Makes a viewer drop the points of later steps, in this file and earlier ones."""
        from tensorboardX.proto import event_pb2

        proto: Any = event_pb2
        start = proto.SessionLog(status=proto.SessionLog.START)
        self._record = proto.Event
        self._add(last_step + 1, session_log=start)

    def _write(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        from tensorboardX.proto import summary_pb2

        proto: Any = summary_pb2
        # One record for all values: its checksum, computed in Python, is most of the cost.
        values = [
            proto.Summary.Value(tag=f"{split}/{name}", simple_value=value)
            for name, value in metrics.items()
        ]
        self._add(step, summary=proto.Summary(value=values))
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed_at = time.monotonic()

    def _add(self, step: int, **content: object) -> None:
        self._writer.write_event(self._record(wall_time=time.time(), step=step, **content))
