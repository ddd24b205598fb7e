"""What a person sees: a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from aetheria.events import (
    EvaluationCompleted,
    Event,
    NonFiniteDetected,
    RolledBack,
    RunEnded,
    RunStarted,
    SnapshotFailed,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.plugins import register_logger

_SILENT_SECONDS = 10.0  # of a log, while reports come in


@register_logger("console")
class ConsoleLogger:
    """Prints progress to stdout: a bar that stays on one line where stdout is a terminal."""

    def __init__(self, context: RunContext):
        self._view: _Bar | _Lines = _Bar() if sys.stdout.isatty() else _Lines(context.schedules)

    def notify(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._view.start(event)
            case TrainMetrics():
                self._view.step(event)
            case EvaluationCompleted():
                progress = event.progress
                self._view.line(
                    f"epoch {progress.epoch}  step {progress.step}  eval "
                    f"{format_metrics(event.metrics)}  ({event.num_examples} examples)"
                )
                if event.num_nonfinite_batches:
                    self._view.line(
                        f"step {progress.step}: the evaluation is not finite in "
                        f"{event.num_nonfinite_batches} batch(es) of "
                        f"{event.num_nonfinite_examples} examples; first {event.first_nonfinite}"
                    )
            case NonFiniteDetected():
                self._view.line(
                    f"step {event.last_skipped_step}: non-finite {event.what}; "
                    f"{event.num_skipped} window(s) skipped, {event.num_skipped_total} in all"
                )
                if event.dump:
                    self._view.line(f"to find out why: aetheria debug nan {event.dump}")
            case RolledBack():
                self._view.line(
                    f"back from step {event.from_step} to {event.snapshot} "
                    f"(step {event.progress.step}, verified)"
                )
            case SnapshotFailed():
                self._view.line(f"{event.name} could not be saved: {event.reason}; going on")
            case RunEnded():
                self._view.end(event)


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Formats metrics for a line.

    >>> format_metrics({"loss": 0.51234, "accuracy": 0.5})
    'loss 0.5123  accuracy 0.5000'
    """
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


class _Lines:
    """Lines for a log file or a batch system: every evaluation, and how far the run is at a report
    that comes when nothing was said for ten seconds.

    Args:
        schedules: name -> value at a step, of hyperparameters to show.
        clock: seconds.
    """

    def __init__(
        self,
        schedules: Mapping[str, Callable[[int], float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedules, self._clock = schedules, clock
        self._told_at, self._total_steps = clock(), 0

    def start(self, event: RunStarted) -> None:
        self._total_steps = event.total_steps
        at = f"from step {event.progress.step} " if event.resumed else ""
        self.line(f"training {at}to step {event.total_steps} ({event.steps_per_epoch} an epoch)")

    def step(self, event: TrainMetrics) -> None:
        if self._clock() - self._told_at < _SILENT_SECONDS:
            return
        step, rate = event.progress.step, event.steps_per_second
        values = {name: at_step(step) for name, at_step in self._schedules.items()}
        words = [
            f"epoch {event.progress.epoch}  step {step}/{self._total_steps}",
            format_metrics({"loss": event.metrics["loss"]}),
            *(f"{name} {value:.3g}" for name, value in values.items()),
            f"{rate:.3g} steps/s",
        ]
        if rate > 0:
            left = timedelta(seconds=round((self._total_steps - step) / rate))
            words.append(f"{left} left")
        self.line("  ".join(words))

    def line(self, text: str) -> None:
        self._told_at = self._clock()
        print(text, flush=True)

    def end(self, event: RunEnded) -> None:
        pass


class _Bar:
    """A rich progress bar; lines scroll above it."""

    def __init__(self) -> None:
        from rich import progress

        self._progress = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[metrics]}"),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            refresh_per_second=2,
        )
        self._task: Any = None

    def start(self, event: RunStarted) -> None:
        fields = {"epoch": event.progress.epoch, "metrics": "", "rate": ""}
        self._task = self._progress.add_task(
            "training", total=event.total_steps, completed=event.progress.step, **fields
        )
        self._progress.start()

    def step(self, event: TrainMetrics) -> None:
        self._progress.update(
            self._task,
            completed=event.progress.step,
            epoch=event.progress.epoch,
            metrics=format_metrics({"loss": event.metrics["loss"]}),
            rate=f"{event.steps_per_second:.0f} steps/s",
        )

    def line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def end(self, event: RunEnded) -> None:
        if self._task is not None:  # the last step need not be one that is reported
            self._progress.update(
                self._task, completed=event.progress.step, epoch=event.progress.epoch
            )
        self._progress.stop()
