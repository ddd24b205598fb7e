"""The training loop. It does not know what a device, an array, an optimizer or a logger is."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Generic

from aetheria.engine.evaluation import Evaluation, Evaluator
from aetheria.engine.heartbeat import Heartbeat
from aetheria.engine.interfaces import (
    Bus,
    DataFeed,
    Program,
    Report,
    Snapshot,
    SnapshotManager,
    State,
    Totals,
)
from aetheria.engine.nonfinite import NonFinitePolicy
from aetheria.engine.phases import Phase, check_transition, is_terminal
from aetheria.engine.record import PendingEvaluation, RunRecord
from aetheria.engine.reports import Frozen, TrainReports
from aetheria.engine.run_state import RunState
from aetheria.engine.schedule import Schedule
from aetheria.engine.stall_timer import StallTimer
from aetheria.engine.stop import StopSignal
from aetheria.engine.train_data import Taken, TrainBatches
from aetheria.events import (
    EvaluationCompleted,
    PhaseChanged,
    Progress,
    RolledBack,
    RunEnded,
    RunStarted,
)

if TYPE_CHECKING:  # only where devices check each other
    from aetheria.engine.spot_checks import SpotChecks


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[State]):
    """How a run ended.

    Attributes:
        status: completed, preempted or halted.
        reason: why, in words.
        progress: how far it came.
        state: the program's, as the last step left it.
        metrics: the last known values, `eval/loss` style names.
        num_eval_examples: of the last evaluation, of the first evaluation split.
        num_skipped: global batches that the guard skipped.
    """

    status: str
    reason: str
    progress: Progress
    state: State
    metrics: Mapping[str, float]
    num_eval_examples: int
    num_skipped: int


class Engine(Generic[State, Report, Totals]):
    """Mediator: moves data from the feed to the program, and emits what happened to the bus.

    Every decision that depends on the run so far rests on the three counters in `Progress`, the
    guard's counters on the device and the listeners' states, all of which are in the snapshot.

    Args:
        checks: the devices check each other; None: they do not.
        inspect: called by all processes with the events of an evaluation, after they are emitted,
            and with the state, of which it may only make copies; None: nothing is done.

    Attributes:
        heartbeat: what it is doing, for other threads to see.
    """

    def __init__(
        self,
        *,
        program: Program[State, Report, Totals],
        feed: DataFeed,
        schedule: Schedule,
        bus: Bus,
        snapshots: SnapshotManager,
        stop: StopSignal,
        nonfinite: NonFinitePolicy,
        record: RunRecord,
        checks: "SpotChecks[State, Report, Totals] | None" = None,
        hyperparameters: Callable[[int], Mapping[str, float]] | None = None,
        inspect: Callable[[Sequence[EvaluationCompleted], State], None] | None = None,
    ):
        self._program, self._schedule = program, schedule
        self._bus, self._snapshots, self._stop = bus, snapshots, stop
        self._nonfinite, self._record, self._inspect = nonfinite, record, inspect
        self._checks = checks
        self.heartbeat = Heartbeat()
        self._stalls = StallTimer(self.heartbeat)
        self._reports = TrainReports(
            program,
            schedule,
            bus,
            self._stalls,
            nonfinite.max_consecutive_skips,
            hyperparameters=hyperparameters,
            tokens_per_example=feed.tokens_per_example,
        )
        self._batches = TrainBatches(feed, lambda: program.steps_per_call, self._stalls)
        self._evaluator = Evaluator(program, feed, stop, self._stalls)
        self._eval_splits, self._test_splits = feed.eval_splits, feed.test_splits
        self._phase = Phase.STARTING
        self._now = RunState()
        self._state_or_none: State | None = None  # None: before the start, and while restoring
        self._interval: Report | None = None  # of the steps since the last logging step
        self._restored: Snapshot | None = None
        self._halt_reason = ""

    def run(self, restored: Snapshot | None = None) -> Outcome[State]:
        """Trains to the end of the schedule, or to a stop, from scratch or from a snapshot.

        One turn of the loop, in this order:

        1. Dispatch: queue steps up to the next one at which anything else is due. The host does not
           wait for any, so the device always has work.
        2. Fetch late: read the report of a logging step some steps after its dispatch, for the same
           reason. How many is a matter of the schedule, never of time.
        3. Guard: the first thing read from a report. If the state froze at a non-finite global
           batch or a spot check failed, the steps after it changed nothing, and nothing below may
           run for them.
        4. Evaluate: before saving, so that the snapshot holds what listeners concluded from it.
        5. Agree on a stop: after evaluating, since a listener may ask for one there, and before
           saving, since a run that leaves saves first. All processes decide alike.
        6. Test: if the run completes, with its final state, and before the snapshot of it.
        7. Save: the state, the position and the listeners, at one step.
        8. Continue or leave: last, when nothing of this step is still to be done.

        Raises:
            Whatever the program, the feed or (before the first step) a listener raises, after a
            RunEnded event with status `failed`.
        """
        try:
            with contextlib.closing(self._batches):
                self._start(restored)
                while not is_terminal(self._phase):
                    report = self._dispatch()
                    if frozen := self._fetch_late(report):
                        self._handle_frozen(frozen)
                    elif self._phase is Phase.TRAINING:
                        self._handle_boundary()
            self._emit_saves(wait=True)
        except BaseException as error:
            self._fail(error)
            raise
        status, reason, now = self._phase.value, self._reason(), self._now
        self._emit_end(status, reason)
        return Outcome(
            status=status,
            reason=reason,
            progress=now.progress,
            state=self._state,
            metrics=now.metrics,
            num_eval_examples=now.num_eval_examples or 0,
            num_skipped=self._reports.num_skipped,
        )

    @property
    def _state(self) -> State:
        assert self._state_or_none is not None, "the run has started"
        return self._state_or_none

    @_state.setter
    def _state(self, state: State) -> None:
        self._state_or_none = state

    def _start(self, restored: Snapshot | None) -> None:
        self._restored = restored
        if restored is None:
            self._state = self._program.init()
        else:
            self._restore(restored, ignore_until_step=self._nonfinite.ignore_until_at_start)
        self._bus.emit(
            RunStarted(
                progress=self._now.progress,
                total_steps=self._schedule.total_steps,
                steps_per_epoch=self._schedule.steps_per_epoch,
                resumed=restored is not None,
                replays=self._now.replays,
            )
        )
        self._stop.agree()
        done = self._schedule.is_finished(self._now.progress)
        finished = self._stop.requested and not self._stop.preempt
        ends = (done or finished) and self._now.pending is None
        self._enter(Phase.COMPLETED if ends else Phase.TRAINING)
        self._seek()
        self._evaluate_pending()
        checks_roll_back = self._checks is not None and self._checks.action == "rollback"
        goes_back = self._nonfinite.rolls_back or checks_roll_back
        if goes_back and self._phase is Phase.TRAINING:
            self._save(wait=False)  # if there is none yet: a place to go back to

    def _restore(self, snapshot: Snapshot, *, ignore_until_step: int | None) -> None:
        """Restores everything that decides the future to what it was in the snapshot."""
        self._state_or_none = None  # frees its memory first
        self._state = self._program.import_state(snapshot.arrays)
        if ignore_until_step is not None:
            self._state = self._program.unfreeze(self._state, ignore_until_step)
        self._now = RunState.from_record(snapshot.record)
        engine = snapshot.record.engine
        self._reports.num_skipped = engine.num_skipped
        self._reports.interval = sums = engine.interval
        self._reports.epoch.carried = engine.epoch or {}
        if self._checks is not None:
            self._checks.passed_step = engine.passed_check
        self._interval = None if sums is None else self._program.import_report(sums)
        self._bus.import_state(snapshot.record.listeners)

    def _seek(self) -> None:
        """Continues data and reports from where the run stands now."""
        if self._phase is Phase.TRAINING:
            self._now.forget_test()  # the next step makes it that of another state
        self._batches.seek(self._now.progress.examples_seen)
        self._reports.start(self._now.progress)

    def _evaluate_pending(self) -> None:
        """Returns to the boundary in whose evaluation the run was stopped."""
        if (pending := self._now.pending) is None:
            return
        if not pending.of_test:
            self._reports.replay(self._now.progress, pending.logged)
            if not self._schedule.is_eval_due(self._now.progress):  # any more: another cadence
                self._now.pending = None
        self._handle_boundary()

    def _dispatch(self) -> Report:
        """Queues steps without waiting for any, until something else is due."""
        progress = self._now.progress
        report = None if self._schedule.is_log_due(progress) else self._interval
        cursors = [progress.examples_seen]
        due = self._schedule.steps_to_boundary(progress)
        while due:
            taken = self._batches.take(due)
            self._state, report = self._take_steps(taken, report)
            cursors += list(accumulate(taken.num_examples, initial=cursors[-1]))[1:]
            due -= len(taken.num_examples)
            if self._stop.poll():
                break
        assert report is not None, "at least one step"
        self._reports.follow(cursors[1:])
        step = progress.step + len(cursors) - 1
        self._now.progress = self._schedule.progress(step, cursors[-1])
        self.heartbeat.step, self._interval = step, report
        return report

    def _take_steps(self, taken: Taken, since: Report | None) -> tuple[State, Report]:
        progress, checks = self._now.progress, self._checks
        if checks is not None and checks.is_due(progress):
            with self._stalls.for_compiler("checked_step"), self._program.loop_context():
                return checks.take(self._state, taken, since, progress)
        with self._stalls.for_compiler("train_steps"), self._program.loop_context():
            return self._program.train_steps(
                self._state, taken.arrays, taken.start, len(taken.num_examples), since
            )

    def _fetch_late(self, report: Report) -> Frozen[Report] | None:
        """Fetches what is due. Returns where the state froze, if it did."""
        progress, schedule, frozen = self._now.progress, self._schedule, None
        needs_host = self._needs_host()
        if needs_host or schedule.is_log_due(progress) or schedule.ends_epoch(progress):
            self._reports.add(progress, report)
        if needs_host or schedule.is_fetch_due(progress):
            frozen = self._reports.fetch_all(progress, self._now.metrics)
            if self._checks is not None:
                self._checks.pass_up_to(self._reports.known_step)
            self._stop.agree()
        return frozen

    def _handle_frozen(self, frozen: Frozen[Report]) -> None:
        """The state froze, for one of two reasons."""
        self._now.progress, self._interval = frozen.progress, frozen.report
        self._emit_saves(wait=True)
        if frozen.guard.failed_check:
            self._handle_mismatch()
        else:
            self._handle_nonfinite(frozen)

    def _handle_mismatch(self) -> None:
        """A spot check failed, and the state is as it was before that step: finds which device was
        wrong, and does what the policy says.
        """
        assert self._checks is not None, "there was a check"
        self._seek()
        found = self._checks.examine(self._state, self._batches.take(1), self._now.progress)
        self._bus.emit(found)
        step, wrong = self._now.progress.step + 1, found.description
        if found.action == "halt":
            self._halt(f"the spot check at step {step} failed: {wrong}")
        elif found.action == "rollback":
            what = f"the spot check at step {step} failed ({wrong})"
            self._go_back(what, step, up_to_step=self._checks.passed_step)
        else:
            self._state = self._checks.go_on(self._state)
            self._seek()

    def _handle_nonfinite(self, frozen: Frozen[Report]) -> None:
        """A global batch was not finite: writes a dump of it, and does what the policy says. The
        state is frozen as it was before that global batch.
        """
        step, what, dump = frozen.guard.step, frozen.guard.what, None
        if self._nonfinite.dumps.has_budget():
            arrays = self._program.export_state(self._state)
            dump = self._nonfinite.dumps.write(step, frozen.begins_at, arrays, what)
        self._reports.emit_skips(frozen.progress, frozen.guard, dump)
        if self._nonfinite.halts(frozen.guard):
            in_a_row = frozen.guard.consecutive_skips
            self._halt(f"non-finite {what} at step {step}, {in_a_row} in a row")
        elif self._nonfinite.rolls_back:
            self._go_back(f"non-finite {what} at step {step}", step, ignore_until_step=step)
        else:
            self._state = self._program.unfreeze(self._state, self._nonfinite.ignore_until(step))
            self._seek()
            self._handle_boundary()

    def _go_back(
        self,
        why: str,
        step: int,
        *,
        up_to_step: int | None = None,
        ignore_until_step: int | None = None,
    ) -> None:
        """Returns to the newest snapshot that verifies and recomputes the same steps: a state that
        was corrupted in memory is correct then, and a global batch that is non-finite again is
        skipped.

        Args:
            why: in words.
            step: at which the reason was found.
            up_to_step: later snapshots are not to be trusted, if there are others.
            ignore_until_step: up to there, a global batch that is not finite freezes nothing.
        """
        snapshot = self._snapshots.read_newest(up_to_step) or self._restored
        if snapshot is None:
            self._halt(f"{why}, and no snapshot to go back to")
            return
        self._restore(snapshot, ignore_until_step=ignore_until_step)
        self._bus.emit(
            RolledBack(
                progress=self._now.progress,
                from_step=step,
                snapshot=snapshot.path.name,
                replays=self._now.replays,
            )
        )
        self._seek()
        self._evaluate_pending()

    def _halt(self, reason: str) -> None:
        self._halt_reason = reason
        self._enter(Phase.HALTED)

    def _needs_host(self) -> bool:
        progress, schedule = self._now.progress, self._schedule
        return (
            self._stop.requested
            or self._stops_here()
            or schedule.is_finished(progress)
            or schedule.is_eval_due(progress)
            or schedule.is_step_save_due(progress)
            or schedule.is_epoch_save_due(progress)
        )

    def _stops_here(self) -> bool:
        return self._now.progress.step == self._schedule.stop_at_step

    def _handle_boundary(self) -> None:
        """Evaluates, saves, and decides whether the run goes on, in this order: the snapshot then
        holds what the listeners made of the evaluation.
        """
        progress, schedule = self._now.progress, self._schedule
        self._emit_saves(wait=False)
        if schedule.is_eval_due(progress) and self._now.eval_step != progress.step:
            self._evaluate(self._eval_splits)
        self._stop.agree()
        completes = self._completes()
        ends = schedule.is_finished(progress) or self._stop.requested or self._stops_here()
        if ends or schedule.is_epoch_save_due(progress):
            self._save(wait=True)
        elif schedule.is_step_save_due(progress):
            self._save(wait=False)
        if completes:
            self._enter(Phase.COMPLETED)
        elif self._stop.requested or self._stops_here():
            self._enter(Phase.PREEMPTED)

    def _completes(self) -> bool:
        """Whether the run is complete, its test included, which is evaluated here."""
        pending = self._now.pending
        asked = self._stop.requested and not self._stop.preempt
        if not asked and not self._schedule.is_finished(self._now.progress):
            if pending is not None and pending.of_test:
                self._now.pending = None  # the run is longer now
            return False
        if pending is not None and not pending.of_test:
            return False
        return not self._test_splits or self._evaluate(self._test_splits, of_test=True)

    def _evaluate(self, splits: Sequence[str], *, of_test: bool = False) -> bool:
        """One pass over each of the splits; returns whether they were completed.

        A preemption interrupts them, and the run then resumes with these evaluations. So nothing is
        emitted before all are complete: no listener hears of the same one twice.
        """
        self._enter(Phase.EVALUATING)
        now = self._now
        done = self._evaluator.evaluate(self._state, splits)
        if done is None:
            logged = None if of_test else self._reports.logged_at(now.progress.step)
            now.pending = PendingEvaluation(logged=logged, of_test=of_test or None)
            self._enter(Phase.TRAINING)
            return False
        if now.pending is not None:
            now.pending, now.saved_step = None, None  # what was saved here lacks the evaluation
        if of_test:
            now.add_results(done)
        else:
            now.add_evaluation(done)
        events = [self._evaluation_event(split, each) for split, each in done.items()]
        for event in events:
            self._bus.emit(event)
        if self._inspect is not None:
            with self._stalls.for_compiler("inspect"):
                self._inspect(events, self._state)
        self._enter(Phase.TRAINING)
        self._reports.restart_clock(self._now.progress)
        return True

    def _evaluation_event(self, split: str, done: Evaluation) -> EvaluationCompleted:
        return EvaluationCompleted(
            progress=self._now.progress,
            metrics=done.metrics,
            num_examples=done.num_examples,
            seconds=done.seconds,
            num_nonfinite_batches=done.bad.num_batches,
            num_nonfinite_examples=done.bad.num_examples,
            first_nonfinite=done.bad.first,
            split=split,
        )

    def _save(self, *, wait: bool) -> None:
        """Starts a save; at most one is under way. Snapshots that a user relies on (at the end of
        an epoch, the last) wait for the one before; step snapshots are left out while one is busy,
        and taken at the next cadence.
        """
        if self._now.progress.step == self._now.saved_step or (not wait and self._snapshots.busy()):
            return
        self._enter(Phase.SAVING)
        self._emit_saves(wait=True)
        begins = self._schedule.is_log_due(self._now.progress)  # another logging interval
        record = self._now.record(
            self._record,
            num_skipped=self._reports.num_skipped,
            interval=None if begins else self._reports.interval,
            epoch=self._reports.epoch.carried or None,
            passed_check=None if self._checks is None else self._checks.passed_step,
            listeners=self._bus.export_state(),
        )
        pending = self._now.pending is not None
        name = self._schedule.snapshot_name(self._now.progress, pending=pending)
        with self._stalls.for_compiler("export_state"):
            arrays = self._program.export_state(self._state)
        self._snapshots.save(name, arrays, record)
        self._now.saved_step = self._now.progress.step
        self._enter(Phase.TRAINING)
        self._reports.restart_clock(self._now.progress)

    def _emit_saves(self, *, wait: bool) -> None:
        for event in self._snapshots.finished(wait=wait):
            self._bus.emit(event)

    def _enter(self, target: Phase) -> None:
        check_transition(self._phase, target)
        source, self._phase = self._phase, target
        self.heartbeat.enter(target.value)
        self._bus.emit(
            PhaseChanged(
                progress=self._now.progress,
                source=source.value,
                target=target.value,
                stalls=self._stalls.totals(),
            )
        )

    def _reason(self) -> str:
        if self._phase is Phase.HALTED:
            return self._halt_reason
        if self._stop.requested:
            return self._stop.reason
        if self._phase is Phase.PREEMPTED:
            return f"asked to stop at step {self._now.progress.step}"
        return "end of schedule"

    def _fail(self, error: BaseException) -> None:
        """Emits the failure without hiding it: a listener that raises here must not replace it."""
        with contextlib.suppress(Exception):
            if not is_terminal(self._phase):
                self._enter(Phase.FAILED)
            self._emit_saves(wait=True)
            self._emit_end("failed", f"{type(error).__name__}: {error}")

    def _emit_end(self, status: str, reason: str) -> None:
        now = self._now
        self._bus.emit(
            RunEnded(progress=now.progress, status=status, reason=reason, metrics=now.metrics)
        )
