"""The progress that a person reads: a live bar in a terminal or a notebook, else plain lines."""

import os
import sys
import time
from collections.abc import Callable
from typing import ClassVar, Protocol

from aetheria.events import (
    Event,
    PhaseChanged,
    RunEnded,
    RunStarted,
    SnapshotFailed,
    SnapshotSaved,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.progress_text import (
    describe_event,
    describe_speed,
    describe_training,
    eta_text,
    rate_text,
)
from aetheria.plugins import register_logger

_SECONDS_BETWEEN_DRAWINGS, _BAR_LENGTH = 0.2, 24  # in a notebook
_MIN_SECONDS_BETWEEN_LINES = 10.0  # of plain progress; evaluations are always printed

# Values of TERM: what cannot draw a line again.
_UNABLE = ("dumb", "unknown")


class View(Protocol):
    """Strategy: how progress is drawn."""

    def start(self, event: RunStarted) -> None:
        """Begins to draw."""
        ...

    def step(self, event: TrainMetrics) -> None:
        """Shows a report of training."""
        ...

    def phase(self, event: PhaseChanged | SnapshotSaved | SnapshotFailed) -> None:
        """Shows what the run does beside training."""
        ...

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        ...

    def end(self, event: RunEnded) -> None:
        """Draws for the last time."""
        ...


@register_logger("console")
class ConsoleLogger:
    """Prints progress to stdout: a bar in a terminal or a notebook, else plain lines."""

    _seconds_between_lines: ClassVar[float] = _MIN_SECONDS_BETWEEN_LINES

    def __init__(self, context: RunContext):
        self._view: View
        if sys.stdout.isatty() and os.environ.get("TERM") not in _UNABLE:
            from aetheria.observe.loggers.bar import Bar  # rich, for a terminal alone

            self._view = Bar()
        elif _in_notebook():
            self._view = _NotebookBar()
        else:
            self._view = _Lines(seconds_between=self._seconds_between_lines)

    def notify(self, event: Event) -> None:
        """Prints an event."""
        match event:
            case RunStarted():
                self._view.start(event)
            case TrainMetrics():
                self._view.step(event)
            case RunEnded():
                self._view.end(event)
            case PhaseChanged() | SnapshotSaved() | SnapshotFailed():
                self._view.phase(event)
        for line in describe_event(event):
            self._view.line(line)


class VerboseConsoleLogger(ConsoleLogger):
    """What `aetheria train --verbose` prints: every report of training, and every snapshot."""

    _seconds_between_lines = 0.0

    def notify(self, event: Event) -> None:
        """Prints an event."""
        super().notify(event)
        if isinstance(event, SnapshotSaved):
            size = f"{event.size_bytes:,} bytes in {event.seconds:.2f} s"
            self._view.line(f"step {event.step}: saved {event.name}, {size}")


def _in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this process. IPython is not imported for that."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class _Lines:
    """Plain lines for a log file or a batch system.

    A line of progress is printed when training metrics arrive and the last such line is ten seconds
    old. Its parts are pairs of a name and a value, so that `grep` finds each.

    Args:
        clock: returns the time in seconds.
        seconds_between: how old the last line of progress must be.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        seconds_between: float = _MIN_SECONDS_BETWEEN_LINES,
    ) -> None:
        self._clock, self._printed_at, self._total_steps = clock, clock(), 0
        self._seconds_between = seconds_between

    def start(self, event: RunStarted) -> None:
        self._total_steps = event.total_steps

    def step(self, event: TrainMetrics) -> None:
        if self._clock() - self._printed_at < self._seconds_between:
            return
        self._printed_at = self._clock()
        self.line(self._describe_step(event))

    def _describe_step(self, event: TrainMetrics) -> str:
        step, rate = event.progress.step, event.steps_per_second
        parts = [
            f"epoch {event.progress.epoch}  step {step}/{self._total_steps}",
            *describe_training(event),
            f"{rate_text(rate)} steps/s",
            *describe_speed(event),
        ]
        if (eta := eta_text(event, self._total_steps)) is not None:
            parts.append(eta)
        return "  ".join(parts)

    def phase(self, event: PhaseChanged | SnapshotSaved | SnapshotFailed) -> None:
        pass

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
