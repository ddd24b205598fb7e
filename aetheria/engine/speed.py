"""How fast the loop trains, measured on the host between two reports; waits for no device."""

import time
from typing import NamedTuple

from aetheria.engine.stall_timer import StallTimer
from aetheria.events import Progress


class Speed(NamedTuple):
    """Rates of training over an interval.

    Attributes:
        steps_per_second: optimizer steps.
        examples_per_second: training examples, without padding.
        data_wait_fraction: the share of the time in which the loop waited for the feed; None: not
            measured.
    """

    steps_per_second: float
    examples_per_second: float
    data_wait_fraction: float | None


class SpeedMeter:
    """Measures from one reading to the next. Evaluation and saves are not training: `restart`
    after them.
    """

    def __init__(self, stalls: StallTimer):
        self._stalls = stalls
        self.restart(Progress())

    def restart(self, progress: Progress) -> None:
        """Begins an interval at `progress`."""
        self._started_at, self._before = time.perf_counter(), progress
        self._stalled = self._stalls.totals().data_seconds

    def read(self, progress: Progress) -> Speed:
        """The rates since the last reading or restart; the next interval begins."""
        before, stalled, started_at = self._before, self._stalled, self._started_at
        self.restart(progress)
        seconds = max(self._started_at - started_at, 1e-9)
        return Speed(
            (progress.step - before.step) / seconds,
            (progress.examples_seen - before.examples_seen) / seconds,
            min(1.0, (self._stalled - stalled) / seconds),
        )
