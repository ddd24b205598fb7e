"""Reports of train steps, fetched a few steps late so that the device does not wait for the host.

A fetch waits for the step it asks about. At once, it would leave the device with nothing queued
while the listeners run; so some more steps are dispatched first. How many depends on the schedule,
not on time: a listener that ends the run ends it at the same step on any machine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple

from aetheria.engine.interfaces import Bus, GuardCounters, Program, Report, State, Totals
from aetheria.engine.record import LoggedMetrics, Sums
from aetheria.engine.schedule import Schedule
from aetheria.engine.stall_timer import StallTimer
from aetheria.events import NonFiniteDetected, Progress, TrainMetrics


class Frozen(NamedTuple, Generic[Report]):
    """Where the guard froze the state: the steps dispatched later changed nothing.

    Attributes:
        progress: after the global batch that was not finite.
        begins_at: `examples_seen` before it.
        guard: the counters.
        report: of the interval up to there.
    """

    progress: Progress
    begins_at: int
    guard: GuardCounters
    report: Report


class TrainReports(Generic[State, Report, Totals]):
    """Collects reports that are still on the device, and turns them into events.

    Attributes:
        num_skipped: global batches that the guard skipped, as far as is known.
        interval: metric -> sums of the last report that was fetched; None: none was.
        last: the metrics that were last emitted; None: none yet.
    """

    def __init__(
        self,
        program: Program[State, Report, Totals],
        schedule: Schedule,
        bus: Bus,
        stalls: StallTimer,
        max_consecutive_skips: int,
        hyperparameters: Callable[[int], Mapping[str, float]] | None = None,
    ):
        self._program, self._schedule, self._bus, self._stalls = program, schedule, bus, stalls
        self._max_consecutive_skips, self._hyperparameters = max_consecutive_skips, hyperparameters
        self._unfetched: list[tuple[Progress, Report]] = []
        self.num_skipped = 0
        self.last: TrainMetrics | None = None
        self.interval: Mapping[str, Sums] | None = None
        self.start(Progress())

    def start(self, progress: Progress) -> None:
        """Sets where the run stands before its first step."""
        self._trail_step, self._trail = progress.step, [progress.examples_seen]
        self.restart_clock(progress)

    def restart_clock(self, progress: Progress) -> None:
        """Evaluation and saves are not training: the rate is measured between them."""
        self._clock = (time.perf_counter(), progress)

    def follow(self, cursors: Sequence[int]) -> None:
        """Records `examples_seen` after each step just dispatched: the guard may freeze at any."""
        self._trail += cursors

    def add(self, progress: Progress, report: Report) -> None:
        """Adds the report of the step that led to `progress`; does not wait for it."""
        self._unfetched.append((progress, report))

    def fetch_all(self, dispatched: Progress, metrics: dict[str, float]) -> Frozen[Report] | None:
        """Fetches the reports and emits their events, in order, up to where the guard froze.

        Args:
            dispatched: how far the run is dispatched.
            metrics: the last known values, `train/loss` style names; updated.
        """
        unfetched, self._unfetched = self._unfetched, []
        for progress, report in unfetched:
            fetched = self._program.fetch(report)
            guard, self.interval = fetched.guard, _as_sums(fetched.sums)
            assert guard is not None, "a train report carries the guard's counters"
            frozen = guard.frozen_step > 0 or guard.consecutive_skips >= self._max_consecutive_skips
            if not frozen:
                self.emit_skips(progress, guard)
            if self._schedule.is_log_due(progress) and progress.step == guard.step:
                metrics |= {f"train/{name}": value for name, value in fetched.metrics.items()}
                num_updates = guard.step - guard.num_skipped
                self._emit_metrics(progress, fetched.metrics, dispatched, num_updates)
            if frozen:
                begins_at, cursor = self._trail[guard.step - self._trail_step - 1 :][:2]
                progress = self._schedule.progress(guard.step, cursor)
                return Frozen(progress, begins_at, guard, report)
            self._forget(progress.step)
        return None

    def emit_skips(self, progress: Progress, guard: GuardCounters, dump: str | None = None) -> None:
        """Emits the global batches that the guard skipped since the last such event, and where the
        dump of the last one is.
        """
        if guard.num_skipped > self.num_skipped:
            self._bus.emit(
                NonFiniteDetected(
                    progress=progress,
                    num_skipped=guard.num_skipped - self.num_skipped,
                    num_skipped_total=guard.num_skipped,
                    consecutive=guard.consecutive_skips,
                    last_skipped_step=guard.last_skipped_step,
                    dump=dump,
                    what=guard.what,
                )
            )
            self.num_skipped = guard.num_skipped

    def _emit_metrics(
        self,
        progress: Progress,
        metrics: Mapping[str, float],
        dispatched: Progress,
        num_updates: int,
    ) -> None:
        now, (then, before) = time.perf_counter(), self._clock
        self._clock = (now, dispatched)
        seconds = max(now - then, 1e-9)
        rate = (dispatched.step - before.step) / seconds
        examples_rate = (dispatched.examples_seen - before.examples_seen) / seconds
        self._emit(progress, metrics, rate, examples_rate, num_updates)

    def replay(self, progress: Progress, logged: LoggedMetrics | None) -> None:
        """Emits again what was logged of a step before a stop interrupted its evaluation."""
        if logged is not None:
            rate = logged.steps_per_second
            num_updates = progress.step - self.num_skipped
            batch_size = self._schedule.batch_size
            self._emit(progress, logged.metrics, rate, rate * batch_size, num_updates)

    def logged_at(self, step: int) -> LoggedMetrics | None:
        """What was logged at that step, for `replay`; None: nothing."""
        if self.last is None or self.last.progress.step != step:
            return None
        metrics, rate = dict(self.last.metrics), self.last.steps_per_second
        return LoggedMetrics(metrics=metrics, steps_per_second=rate)

    def _emit(
        self,
        progress: Progress,
        metrics: Mapping[str, float],
        rate: float,
        examples_rate: float,
        num_updates: int,
    ) -> None:
        told: Mapping[str, float] = {}
        if self._hyperparameters is not None:
            told = self._hyperparameters(max(0, num_updates - 1))
        self.last = TrainMetrics(
            progress=progress,
            metrics=metrics,
            steps_per_second=rate,
            stalls=self._stalls.totals(),
            examples_per_second=examples_rate,
            hyperparameters=told,
        )
        self._bus.emit(self.last)

    def _forget(self, step: int) -> None:
        del self._trail[: step - self._trail_step]
        self._trail_step = step


def _as_sums(fetched: Mapping[str, Sequence[float]]) -> Mapping[str, Sums] | None:
    return {name: (total, weight) for name, (total, weight) in fetched.items()} or None
