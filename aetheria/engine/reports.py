"""Reports of train steps, fetched a few steps late so that the device does not wait for the host.

A fetch waits for the step it asks about. At once, it would leave the device with nothing queued
while the listeners run; so some more steps are dispatched first. How many depends on the schedule,
not on time: a listener that ends the run ends it at the same step on any machine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple

from aetheria.engine.epoch_means import EpochMeans
from aetheria.engine.interfaces import (
    Bus,
    GuardCounters,
    HostReport,
    Program,
    Report,
    State,
    Totals,
)
from aetheria.engine.record import LoggedMetrics, Sums
from aetheria.engine.schedule import Schedule
from aetheria.engine.speed import Speed, SpeedMeter
from aetheria.engine.stall_timer import StallTimer
from aetheria.events import Histogram, NonFiniteDetected, Progress, TrainMetrics


class Frozen(NamedTuple, Generic[Report]):
    """Where the guard or a spot check froze the state: the steps dispatched later changed nothing.

    Attributes:
        progress: after the global batch that was not finite; before the one at which a check
            failed.
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
        epoch: the means over the epoch that the run is in.
        last: the metrics that were last emitted; None: none yet.
        known_step: the step up to which all is known to have gone well, by the last fetched report.
    """

    def __init__(
        self,
        program: Program[State, Report, Totals],
        schedule: Schedule,
        bus: Bus,
        stalls: StallTimer,
        max_consecutive_skips: int,
        hyperparameters: Callable[[int], Mapping[str, float]] | None = None,
        tokens_per_example: int | None = None,
    ):
        self._program, self._schedule, self._bus, self._stalls = program, schedule, bus, stalls
        self._max_consecutive_skips, self._hyperparameters = max_consecutive_skips, hyperparameters
        self._tokens_per_example, self._speed = tokens_per_example, SpeedMeter(stalls)
        self._unfetched: list[tuple[Progress, Report]] = []
        self.num_skipped = 0
        self.last: TrainMetrics | None = None
        self.known_step = 0
        self.interval: Mapping[str, Sums] | None = None
        self.epoch = EpochMeans()
        self.start(Progress())

    def start(self, progress: Progress) -> None:
        """Sets where the run stands before its first step."""
        self._trail_step, self._trail = progress.step, [progress.examples_seen]
        self.restart_clock(progress)

    def restart_clock(self, progress: Progress) -> None:
        """Evaluation and saves are not training: the rate is measured between them."""
        self._speed.restart(progress)

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
            metrics: the last known values, `train/loss` style names; updated: where an epoch ends,
                to the means over it, so that they do not rest on a padded global batch alone;
                within one, to those of the last whole interval, or of all steps if there is none.
        """
        unfetched, self._unfetched = self._unfetched, []
        for progress, report in unfetched:
            fetched = self._program.fetch(report)
            guard, self.interval = fetched.guard, _as_sums(fetched.sums)
            assert guard is not None, "a train report carries the guard's counters"
            self.known_step = guard.step
            frozen = guard.frozen_step > 0 or guard.consecutive_skips >= self._max_consecutive_skips
            frozen |= guard.failed_check
            if not frozen:
                self.emit_skips(progress, guard)
            if progress.step == guard.step:
                known = self._known(progress, fetched)
                metrics |= {f"train/{name}": value for name, value in known.items()}
                if self._schedule.is_log_due(progress):
                    num_updates = guard.step - guard.num_skipped
                    speed = self._speed.read(dispatched)
                    metrics_here = {**fetched.metrics, **fetched.layers}
                    self._emit(progress, metrics_here, speed, num_updates, fetched.histograms)
            if guard.failed_check:
                cursor = self._trail[guard.step - self._trail_step]
                progress = self._schedule.progress(guard.step, cursor)
                return Frozen(progress, cursor, guard, report)
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

    def _known(self, progress: Progress, fetched: HostReport) -> Mapping[str, float]:
        """What is known of training after a fetched report, and begins what begins there."""
        schedule, means = self._schedule, self.epoch.means(fetched.sums)
        is_logged, ends_epoch = schedule.is_log_due(progress), schedule.ends_epoch(progress)
        means = {name: mean for name, mean in means.items() if name not in fetched.latest}
        if is_logged:
            self.epoch.end_interval(fetched.sums)
        if ends_epoch:
            self.epoch.end_epoch({} if is_logged else fetched.sums)
        if ends_epoch or progress.step < schedule.log_every_steps:
            return {**fetched.metrics, **means}
        return fetched.metrics if is_logged else {}

    def replay(self, progress: Progress, logged: LoggedMetrics | None) -> None:
        """Emits again what was logged of a step before a stop interrupted its evaluation."""
        if logged is not None:
            rate = logged.steps_per_second
            num_updates = progress.step - self.num_skipped
            speed = Speed(rate, rate * self._schedule.batch_size, None)
            self._emit(progress, logged.metrics, speed, num_updates, logged.histograms or {})

    def logged_at(self, step: int) -> LoggedMetrics | None:
        """What was logged at that step, for `replay`; None: nothing."""
        if self.last is None or self.last.progress.step != step:
            return None
        return LoggedMetrics(
            metrics=dict(self.last.metrics),
            steps_per_second=self.last.steps_per_second,
            histograms=dict(self.last.histograms) or None,
        )

    def _emit(
        self,
        progress: Progress,
        metrics: Mapping[str, float],
        speed: Speed,
        num_updates: int,
        histograms: Mapping[str, Histogram],
    ) -> None:
        memory, tokens = self._program.memory(), self._tokens_per_example
        told: Mapping[str, float] = {}
        if self._hyperparameters is not None:
            told = self._hyperparameters(max(0, num_updates - 1))
        self.last = TrainMetrics(
            progress=progress,
            metrics=metrics,
            steps_per_second=speed.steps_per_second,
            stalls=self._stalls.totals(),
            examples_per_second=speed.examples_per_second,
            hyperparameters=told,
            tokens_per_second=None if tokens is None else tokens * speed.examples_per_second,
            mfu=self._program.mfu(speed.steps_per_second),
            memory_bytes=None if memory is None else memory.bytes_in_use,
            peak_memory_bytes=None if memory is None else memory.peak_bytes,
            data_wait_fraction=speed.data_wait_fraction,
            histograms=histograms,
        )
        self._bus.emit(self.last)

    def _forget(self, step: int) -> None:
        del self._trail[: step - self._trail_step]
        self._trail_step = step


def _as_sums(fetched: Mapping[str, Sequence[float]]) -> Mapping[str, Sums] | None:
    return {name: (total, weight) for name, (total, weight) in fetched.items()} or None
