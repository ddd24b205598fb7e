"""TensorBoard curves; neither TensorFlow nor TensorBoard is needed to write them."""

import time
from collections.abc import Mapping
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
from aetheria.observe.loggers.event_file import EventFile
from aetheria.observe.loggers.records import metric_values, rates
from aetheria.plugins import register_logger

_FLUSH_SECONDS = 30.0  # how far a viewer may lag behind the run


@register_logger("tensorboard")
class TensorBoardLogger:
    """Writes event files to `tensorboard/`, with tags such as `train/loss` and `eval/accuracy`.

    There is one numbered file for each start of the run: TensorBoard reads files in the order of
    their names.
    """

    def __init__(self, context: RunContext):
        self._folder = context.run_dir / "tensorboard"
        self._file: EventFile | None = None
        self._flushed_at = 0.0

    def notify(self, event: Event) -> None:
        """Writes the values of an event with metrics."""
        match event:
            case RunStarted():
                # TensorBoard finds event files by this word in their names.
                name = f"events.{len(list(self._folder.glob('events.*'))):06}.tfevents"
                self._file = EventFile(self._folder / name)
                # A killed process may have written points of later steps than its last snapshot's.
                self._file.drop_from(event.last_logged_step + 1)
            case RolledBack() if self._file is not None:
                self._file.drop_from(event.last_logged_step + 1)
            case TrainMetrics():
                values = {**metric_values(event), **rates(event)}
                self._write("train", values, event.progress.step)
            case EvaluationCompleted():
                self._write(event.split, metric_values(event), event.progress.step)
            case RunEnded() if self._file is not None:
                self._file.close()

    def export_state(self) -> dict[str, Any]:
        """Flushes, so that a kill after the snapshot loses nothing from before it. No state."""
        if self._file is not None:
            self._file.flush()
        return {}

    def _write(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        assert self._file is not None, "a run starts before it has metrics"
        self._file.add_scalars(step, {f"{split}/{name}": value for name, value in metrics.items()})
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed_at = time.monotonic()
