"""The training loop. It may not know what a device, an array, an optimizer or a logger is."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from aetheria.engine.phases import Phase, check_transition, is_terminal
from aetheria.engine.reports import TrainReports
from aetheria.engine.schedule import Schedule
from aetheria.events import (
    EvaluationCompleted,
    PhaseChanged,
    Progress,
    RunEnded,
    RunStarted,
    progress_from,
)
from aetheria.protocols import (
    Bus,
    Chunk,
    DataFeed,
    Program,
    Report,
    Snapshot,
    SnapshotWriter,
    State,
    StopSignal,
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. `metrics` are the last known values, `eval/loss` style names."""

    status: str
    reason: str
    progress: Progress
    state: State
    metrics: Mapping[str, float]
    num_eval_examples: int


class Engine:
    """Mediator: moves data from the feed to the program and tells the bus what happened.

    Every decision that depends on the run so far is taken from the three counters in `Progress`,
    the guard's counters on the device and the listeners' states, all of which are in the snapshot.
    """

    def __init__(
        self,
        *,
        program: Program,
        feed: DataFeed,
        schedule: Schedule,
        bus: Bus,
        writer: SnapshotWriter,
        stop: StopSignal,
        max_consecutive_skips: int,
    ):
        self._program, self._feed, self._schedule = program, feed, schedule
        self._bus, self._writer, self._stop = bus, writer, stop
        self._reports = TrainReports(program, schedule, bus, max_consecutive_skips)
        self._phase = Phase.STARTING
        self._progress = Progress()
        self._state: State = None
        self._chunk, self._taken = Chunk({}, ()), 0
        self._metrics: dict[str, float] = {}
        self._num_eval_examples = 0
        self._eval_step = -1
        self._saved_step = -1

    def run(self, restored: Snapshot | None = None) -> Outcome:
        """Trains to the end of the schedule, or to a stop, from scratch or from a snapshot.

        Raises:
            Whatever the program, the feed or (before the first step) a listener raises, after a
            RunEnded event with status `failed`.
        """
        try:
            self._start(restored)
            with contextlib.closing(
                self._feed.train_chunks(
                    self._progress.examples_seen, self._program.windows_per_chunk
                )
            ) as chunks:
                while not is_terminal(self._phase):
                    self._settle(self._train_to_boundary(chunks))
                    if self._phase is Phase.TRAINING:
                        self._attend_boundary()
            self._emit_saves(wait=True)
        except BaseException as error:
            self._fail(error)
            raise
        return self._end(self._phase.value, self._reason())

    def _start(self, restored: Snapshot | None) -> None:
        if restored is None:
            self._state = self._program.init()
        else:
            self._state = self._program.import_state(restored.arrays)
            self._progress = progress_from(restored.record["progress"])
            engine = restored.record["engine"]
            self._metrics = dict(engine["metrics"])
            self._num_eval_examples = engine["num_eval_examples"]
            self._eval_step = engine["eval_step"]
            self._reports.num_skipped = engine["num_skipped"]
            self._saved_step = self._progress.step
            self._bus.import_state(restored.record["listeners"])
        self._bus.emit(
            RunStarted(
                progress=self._progress,
                total_steps=self._schedule.total_steps,
                steps_per_epoch=self._schedule.steps_per_epoch,
                resumed=restored is not None,
            )
        )
        self._stop.agree()
        done = self._schedule.is_finished(self._progress)
        finished = self._stop.requested and not self._stop.preempt
        self._enter(Phase.COMPLETED if done or finished else Phase.TRAINING)
        self._reports.start(self._progress)

    def _train_to_boundary(self, chunks: Iterator[Chunk]) -> Report:
        """Dispatches steps without waiting for any, until something else is due."""
        cursors = [self._progress.examples_seen]
        due, report = self._schedule.steps_to_boundary(self._progress), None
        while due:
            if self._taken == len(self._chunk.num_examples):
                self._chunk, self._taken = next(chunks), 0
            start, counts = self._taken, self._chunk.num_examples[self._taken :][:due]
            self._state, report = self._program.train_steps(
                self._state, self._chunk.arrays, start, len(counts)
            )
            cursors += list(accumulate(counts, initial=cursors[-1]))[1:]
            self._taken, due = start + len(counts), due - len(counts)
            if self._stop.poll():
                break
        self._reports.follow(cursors[1:])
        num_steps = len(cursors) - 1
        self._progress = self._schedule.progress(self._progress.step + num_steps, cursors[-1])
        return report

    def _settle(self, report: Report) -> None:
        """Fetches, some steps late, if anything at this boundary needs host values."""
        progress, schedule = self._progress, self._schedule
        attend = self._must_attend()
        if attend or schedule.is_log_due(progress):
            self._reports.hold(progress, report)
        if attend or schedule.is_fetch_due(progress):
            halted_at = self._reports.settle(progress, self._metrics)
            self._stop.agree()
            if halted_at is not None:
                self._progress = halted_at
                self._enter(Phase.HALTED)

    def _must_attend(self) -> bool:
        progress, schedule = self._progress, self._schedule
        return (
            self._stop.requested
            or self._leaves_here()
            or schedule.is_finished(progress)
            or schedule.is_eval_due(progress)
            or schedule.is_step_save_due(progress)
            or schedule.is_epoch_save_due(progress)
        )

    def _leaves_here(self) -> bool:
        return self._progress.step == self._schedule.stop_at_step

    def _attend_boundary(self) -> None:
        """Evaluates, saves, and decides whether the run goes on, in this order: the snapshot then
        holds what the listeners made of the evaluation.
        """
        progress, schedule = self._progress, self._schedule
        self._emit_saves(wait=False)
        if schedule.is_eval_due(progress):
            self._evaluate()
        self._stop.agree()
        ends = schedule.is_finished(progress) or self._stop.requested or self._leaves_here()
        if ends or schedule.is_epoch_save_due(progress):
            self._save(wait=True)
        elif schedule.is_step_save_due(progress):
            self._save(wait=False)
        if schedule.is_finished(progress) or (self._stop.requested and not self._stop.preempt):
            self._enter(Phase.COMPLETED)
        elif self._stop.requested or self._leaves_here():
            self._enter(Phase.PREEMPTED)

    def _evaluate(self) -> None:
        self._enter(Phase.EVALUATING)
        began = time.perf_counter()
        totals = None
        for batch in self._feed.eval_batches():
            totals = self._program.eval_step(self._state, batch, totals)
        fetched = self._program.fetch(totals)
        assert fetched.num_examples is not None, "an evaluation counts its examples"
        self._num_eval_examples, self._eval_step = fetched.num_examples, self._progress.step
        self._metrics |= {f"eval/{name}": value for name, value in fetched.metrics.items()}
        self._bus.emit(
            EvaluationCompleted(
                progress=self._progress,
                metrics=fetched.metrics,
                num_examples=fetched.num_examples,
                seconds=time.perf_counter() - began,
            )
        )
        self._enter(Phase.TRAINING)
        self._reports.restart_clock(self._progress)

    def _save(self, *, wait: bool) -> None:
        """Back-pressure: at most one save is under way. Snapshots a user counts on (ends of epochs,
        the last) wait for it; step snapshots yield to it and are taken at the next cadence.
        """
        if self._progress.step == self._saved_step or (not wait and self._writer.busy()):
            return
        self._enter(Phase.SAVING)
        self._emit_saves(wait=True)
        record = {
            "progress": {name: getattr(self._progress, name) for name in Progress.__slots__},
            "engine": {
                "metrics": self._metrics,
                "num_eval_examples": self._num_eval_examples,
                "eval_step": self._eval_step,
                "num_skipped": self._reports.num_skipped,
            },
            "listeners": self._bus.export_state(),
        }
        name = self._schedule.snapshot_name(self._progress)
        self._writer.save(name, self._program.export_state(self._state), record)
        self._saved_step = self._progress.step
        self._enter(Phase.TRAINING)
        self._reports.restart_clock(self._progress)

    def _emit_saves(self, *, wait: bool) -> None:
        for event in self._writer.finished(wait=wait):
            self._bus.emit(event)

    def _enter(self, target: Phase) -> None:
        check_transition(self._phase, target)
        source, self._phase = self._phase, target
        self._bus.emit(
            PhaseChanged(progress=self._progress, source=source.value, target=target.value)
        )

    def _reason(self) -> str:
        if self._phase is Phase.HALTED:
            return f"non-finite loss or gradient at step {self._progress.step}"
        if self._stop.requested:
            return self._stop.reason
        if self._phase is Phase.PREEMPTED:
            return f"asked to stop at step {self._progress.step}"
        return "end of schedule"

    def _fail(self, error: BaseException) -> None:
        """Says so without hiding the error: a listener that raises here must not replace it."""
        with contextlib.suppress(Exception):
            if not is_terminal(self._phase):
                self._enter(Phase.FAILED)
            self._emit_saves(wait=True)
            self._end("failed", f"{type(error).__name__}: {error}")

    def _end(self, status: str, reason: str) -> Outcome:
        self._bus.emit(
            RunEnded(progress=self._progress, status=status, reason=reason, metrics=self._metrics)
        )
        return Outcome(
            status=status,
            reason=reason,
            progress=self._progress,
            state=self._state,
            metrics=self._metrics,
            num_eval_examples=self._num_eval_examples,
        )
