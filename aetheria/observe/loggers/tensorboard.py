"""TensorBoard files; neither TensorFlow nor TensorBoard is needed to write them."""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aetheria.events import (
    EvaluationCompleted,
    Event,
    Histogram,
    RolledBack,
    RunEnded,
    RunStarted,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.event_file import EventFile
from aetheria.observe.loggers.hyperparameters import (
    SESSION_END,
    SESSION_START,
    session_end,
    session_start,
)
from aetheria.observe.loggers.records import metric_values, rates
from aetheria.observe.loggers.settings import flatten
from aetheria.plugins import register_logger

if TYPE_CHECKING:
    from aetheria.observe.probe import Probe

_FLUSH_SECONDS = 30.0  # how far a viewer may lag behind the run


@register_logger("tensorboard")
class TensorBoardLogger:
    """Writes event files to `tensorboard/`, with tags such as `train/loss` and `eval/accuracy`, the
    config as a text, and its values as hyperparameters, by which TensorBoard compares runs. With
    `layer_statistics.histograms`, also histograms of each layer's gradient and update.

    There is one numbered file for each start of the run: TensorBoard reads files in the order of
    their names.

    Args:
        context: what every logger is given.
        histograms: whether to write, at every evaluation, a histogram of each parameter, with tags
            such as `params/Dense_0/kernel`. All parameters are then copied to the host.
        samples: of how many examples of each evaluation split to show, at every evaluation, the
            predictions as a text, the inputs if they are pictures, the pictures that the model's
            hook `images` makes, and the confusion matrix if it is among the metrics.

    Raises:
        AetheriaError: `samples` is negative.
    """

    def __init__(self, context: RunContext, histograms: bool = False, samples: int = 0):
        self._context, self._look = context, None
        # None: the logger asks for no probe, and none is made for it.
        self.inspect = None
        if histograms or samples:
            from aetheria.observe.loggers.look import Look

            self._look = Look("loggers.tensorboard", histograms=histograms, samples=samples)
            self.inspect = self._show
        self._folder = context.run_dir / "tensorboard"
        self._file: EventFile | None = None
        self._flushed_at = 0.0

    def notify(self, event: Event) -> None:
        """Writes the values of an event with metrics."""
        match event:
            case RunStarted():
                self._file = self._start(event)
            case RolledBack() if self._file is not None:
                if self._look is not None:
                    self._look.go_back()
                self._file.drop_from(event.last_logged_step + 1)
            case TrainMetrics():
                values = {**metric_values(event), **rates(event)}
                self._write("train", values, event.progress.step)
                self._write_histograms(event.progress.step, event.histograms)
            case EvaluationCompleted():
                self._write(event.split, metric_values(event), event.progress.step)
            case RunEnded() if self._file is not None:
                if event.status != "preempted":
                    end = session_end(event.status == "completed", time.time())
                    self._file.add_hyperparameters(event.progress.step, SESSION_END, end)
                self._file.close()

    def export_state(self) -> dict[str, Any]:
        """Flushes, so that a kill after the snapshot loses nothing from before it. No state."""
        if self._file is not None:
            self._file.flush()
        return {}

    def _show(self, event: EvaluationCompleted, probe: "Probe") -> None:
        from aetheria.observe.loggers.look import markdown_table

        assert self._look is not None and self._file is not None
        step, view = event.progress.step, self._look(event, probe)
        self._write_histograms(step, view.histograms)
        for tag, images in view.images.items():
            self._file.add_images(step, tag, (images.width, images.height), images.files)
        for tag, table in view.tables.items():
            self._file.add_text(step, tag, markdown_table(table))

    def _write_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        assert self._file is not None, "a run starts before it has metrics"
        self._file.add_histograms(step, {k: (h.edges, h.counts) for k, h in histograms.items()})

    def _start(self, event: RunStarted) -> EventFile:
        """Opens a file, in which points that a killed process wrote after its last snapshot are
        dropped. The config is written once.
        """
        # TensorBoard finds event files by this word in their names.
        number = len(list(self._folder.glob("events.*")))
        file = EventFile(self._folder / f"events.{number:06}.tfevents")
        file.drop_from(event.last_logged_step + 1 if event.resumed else 0)
        if not event.resumed or not number or self._context.is_fork:
            step, config = event.progress.step, self._context.config
            file.add_text(
                step, "config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```"
            )
            name = "/".join(self._context.run_dir.absolute().parts[-2:])
            start = session_start(flatten(config), name, self._context.started_at)
            file.add_hyperparameters(step, SESSION_START, start)
        return file

    def _write(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        assert self._file is not None, "a run starts before it has metrics"
        self._file.add_scalars(step, {f"{split}/{name}": value for name, value in metrics.items()})
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed_at = time.monotonic()
