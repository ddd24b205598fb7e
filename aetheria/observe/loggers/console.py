"""The progress that a person reads: a live bar in a terminal or a notebook, else plain lines."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
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

_SECONDS_BETWEEN_DRAWINGS, _BAR_LENGTH = 0.2, 24  # in a notebook
_MIN_SECONDS_BETWEEN_LINES = 10.0  # of plain progress; evaluations are always printed
_MIN_WIDTH_FOR_SPEED = 140  # columns of a terminal; with less, the bar says steps/s alone


@register_logger("console")
class ConsoleLogger:
    """Prints progress to stdout: a bar in a terminal or a notebook, else plain lines."""

    def __init__(self, context: RunContext):
        self._view: _Bar | _Lines
        if sys.stdout.isatty():
            self._view = _Bar()
        elif _in_notebook():
            self._view = _NotebookBar()
        else:
            self._view = _Lines()

    def notify(self, event: Event) -> None:
        """Prints an event."""
        match event:
            case RunStarted():
                self._view.start(event)
            case TrainMetrics():
                self._view.step(event)
            case RunEnded():
                self._view.end(event)
            case _:
                for line in _describe(event):
                    self._view.line(line)


def _in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this process. IPython is not imported for that."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _describe(event: Event) -> Iterator[str]:
    """What is printed for an event besides the progress."""
    match event:
        case EvaluationCompleted():
            progress = event.progress
            yield (
                f"epoch {progress.epoch}  step {progress.step}  {event.split} "
                f"{format_metrics(event.metrics)}  ({event.num_examples} examples)"
            )
            if event.num_nonfinite_batches:
                yield (
                    f"step {progress.step}: {_pass_text(event.split)} is not finite in "
                    f"{event.num_nonfinite_batches} batch(es) of "
                    f"{event.num_nonfinite_examples} examples; first {event.first_nonfinite}"
                )
        case NonFiniteDetected():
            yield (
                f"step {event.last_skipped_step}: non-finite {event.what}; "
                f"{event.num_skipped} global batch(es) skipped, {event.num_skipped_total} in total"
            )
            if event.dump:
                yield f"to find the cause: aetheria debug nan {event.dump}"
        case RolledBack():
            yield (
                f"rolled back from step {event.from_step} to {event.snapshot} "
                f"(step {event.progress.step}, verified)"
            )
        case SnapshotFailed():
            yield f"{event.name} could not be saved: {event.reason}; the run continues"


def _pass_text(split: str) -> str:
    return "the evaluation" if split == "eval" else f"the evaluation of {split}"


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Formats metrics as one line.

    >>> format_metrics({"loss": 0.51234, "accuracy": 0.5})
    'loss 0.5123  accuracy 0.5000'
    """
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _describe_training(event: TrainMetrics) -> str:
    """The loss and the hyperparameters."""
    values = {("lr" if n == "learning_rate" else n): v for n, v in event.hyperparameters.items()}
    rates = (f"{name} {value:.3g}" for name, value in values.items())
    return "  ".join([format_metrics({"loss": event.metrics["loss"]}), *rates])


def _describe_speed(event: TrainMetrics) -> Iterator[str]:
    """How fast training is, and what it uses, as far as it is known."""
    yield f"{_rate_text(event.examples_per_second)} examples/s"
    if event.tokens_per_second is not None:
        yield f"{_rate_text(event.tokens_per_second)} tokens/s"
    if event.mfu is not None:
        yield f"mfu {event.mfu:.1%}"
    if event.memory_bytes is not None:
        yield f"memory {event.memory_bytes / 2**30:.1f} GiB"
    if event.data_wait_fraction is not None:
        yield f"data wait {event.data_wait_fraction:.0%}"


def _rate_text(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


class _Lines:
    """Plain lines for a log file or a batch system.

    A line of progress is printed when training metrics arrive and the last such line is ten seconds
    old. Its parts are pairs of a name and a value, so that `grep` finds each.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._printed_at, self._total_steps = clock, clock(), 0

    def start(self, event: RunStarted) -> None:
        self._total_steps = event.total_steps
        at = f"from step {event.progress.step} " if event.resumed else ""
        self.line(f"training {at}to step {event.total_steps} ({event.steps_per_epoch} an epoch)")

    def step(self, event: TrainMetrics) -> None:
        if self._clock() - self._printed_at < _MIN_SECONDS_BETWEEN_LINES:
            return
        self._printed_at = self._clock()
        self.line(self._describe_step(event))

    def _describe_step(self, event: TrainMetrics) -> str:
        step, rate = event.progress.step, event.steps_per_second
        parts = [
            f"epoch {event.progress.epoch}  step {step}/{self._total_steps}",
            _describe_training(event),
            f"{_rate_text(rate)} steps/s",
            *_describe_speed(event),
        ]
        if rate > 0:
            left = timedelta(seconds=round((self._total_steps - step) / rate))
            parts.append(f"ETA {left}")
        return "  ".join(parts)

    def line(self, text: str) -> None:
        print(text, flush=True)

    def end(self, event: RunEnded) -> None:
        pass


class _NotebookBar(_Lines):
    """One line that is written over, below lines that stay.

    rich's bar would need widgets, which not every notebook has; each of them understands a carriage
    return.
    """

    _drawn_at, _width = 0.0, 0

    def step(self, event: TrainMetrics) -> None:
        done = event.progress.step / max(self._total_steps, 1)
        if self._clock() - self._drawn_at < _SECONDS_BETWEEN_DRAWINGS and done < 1:
            return
        self._drawn_at = self._clock()
        filled = round(done * _BAR_LENGTH)
        text = f"{'█' * filled}{'░' * (_BAR_LENGTH - filled)}  {self._describe_step(event)}"
        print(f"\r{text.ljust(self._width)}", end="", flush=True)
        self._width = len(text)

    def line(self, text: str) -> None:
        print(f"\r{text.ljust(self._width)}", flush=True)
        self._width = 0

    def end(self, event: RunEnded) -> None:
        if self._width:
            print(flush=True)


class _Bar:
    """A rich progress bar; lines scroll above it."""

    def __init__(self) -> None:
        from rich import progress

        self._progress = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(bar_width=24),
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
        is_wide = self._progress.console.width >= _MIN_WIDTH_FOR_SPEED
        speed = _describe_speed(event) if is_wide else ()
        self._progress.update(
            self._task,
            completed=event.progress.step,
            epoch=event.progress.epoch,
            metrics=_describe_training(event),
            rate="  ".join([f"{_rate_text(event.steps_per_second)} steps/s", *speed]),
        )

    def line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def end(self, event: RunEnded) -> None:
        if self._task is not None:  # the last step may lie between two log cadences
            self._progress.update(
                self._task, completed=event.progress.step, epoch=event.progress.epoch
            )
        self._progress.stop()
