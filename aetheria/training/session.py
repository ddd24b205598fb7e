"""One run in this process, from its config to its summary: prepared, watched, and ended."""

import _thread
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from aetheria.build import (
    NOTHING,
    Given,
    Run,
    RunOptions,
    build_retention,
    build_run,
    describe_devices,
    join_peers,
    keep_compiled,
    prepare_environment,
)
from aetheria.config import Config
from aetheria.engine.interfaces import Peers
from aetheria.errors import AetheriaError, ExitCode
from aetheria.hardware.processes.all_or_none import all_or_none, exit_together
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.signals import (
    ignore_signal,
    leave_at_once,
    raise_at_once,
    stop_on_signals,
    tell_of_signal,
)
from aetheria.hardware.processes.watchdog import Watchdog
from aetheria.snapshots.claim import claim
from aetheria.snapshots.disk_space import check_disk_space
from aetheria.snapshots.manifest import part_sha256
from aetheria.snapshots.run_folder import write_json
from aetheria.snapshots.run_plan import RunPlan
from aetheria.snapshots.runs import RunRequest
from aetheria.snapshots.undo import undone_if_refused
from aetheria.training.card import Card
from aetheria.training.screen import Screen, TextScreen
from aetheria.training.starts import writing_start
from aetheria.training.summary import summarize, summarize_failure, summarize_hang


class Ended(NamedTuple):
    """How the part of a run that this process did has ended.

    Attributes:
        status: `completed`, `preempted` or `halted`.
        reason: why, in words.
        exit_code: what a command exits with.
        run_dir: the run folder.
        metrics: the last values of all metrics.
        config: the run's, with what was chosen for it.
        summary: what `summary.json` holds; empty where another process writes it.
    """

    status: str
    reason: str
    exit_code: ExitCode
    run_dir: Path
    metrics: Mapping[str, float]
    config: Config
    summary: Mapping[str, Any]


_EXIT_CODES = {
    "completed": ExitCode.OK,
    "preempted": ExitCode.PREEMPTED,
    "halted": ExitCode.NONFINITE_HALT,
}


@dataclass(frozen=True, kw_only=True)
class TrainingSession:
    """One run, or the part of it that this process does.

    Attributes:
        config: the run's config.
        config_name: what a new run folder is named after.
        project: the project folder; None: there is none.
        workdir: the run folder; None: a new one under `runs/<config name>/`.
        resume: `auto`, `latest`, `best`, a step or a path; None: start afresh.
        overwrite: whether an earlier run in `workdir` may be removed.
        accept_changes: resume although the run takes another course from the snapshot.
        stop_at_step: leave the run at that step, to be resumed.
        auto_micro_batch: raise `grad_accumulation_steps` until a step fits the device's memory.
        distributed: the other processes of the run, where no launcher says.
        traceback: print the whole traceback of an error, not the user's own frames alone.
        given: what a program gives as objects.
        owns_process: whether the process is there for this run alone: a second signal and a hang
            then end it. Otherwise both raise KeyboardInterrupt in the main thread.
        screen: what prints how the run starts and ends.
        started_at: when the session began, by `time.perf_counter()`, in seconds.
    """

    config: Config
    config_name: str
    project: Path | None = None
    workdir: Path | None = None
    resume: str | None = None
    overwrite: bool = False
    accept_changes: bool = False
    stop_at_step: int | None = None
    auto_micro_batch: bool = False
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    traceback: bool = False
    given: Given = NOTHING
    owns_process: bool = True
    screen: Screen = field(default_factory=TextScreen)
    started_at: float = field(default_factory=time.perf_counter)

    @property
    def request(self) -> RunRequest:
        """Which folder and which snapshot the run asks for."""
        return RunRequest(
            config_name=self.config_name,
            workdir=self.workdir,
            resume=self.resume,
            overwrite=self.overwrite,
            retention=build_retention(self.config),
        )

    def run(self, held: contextlib.ExitStack) -> Ended:
        """Trains, and says how that ended.

        Args:
            held: is given the run folder to hold; closing it frees the folder.

        Raises:
            AetheriaError: the request cannot be met; nothing was written.
        """
        prepare_environment(self.config, os.environ)
        peers = join_peers(self.distributed, os.environ)
        try:
            with held, keep_compiled(self.config, peers, os.environ):
                return self._train(peers, held)
        except AetheriaError:
            raise
        except BaseException as error:
            if peers.count > 1:
                exit_together(peers, error, whole=self.traceback)
            raise

    def _train(self, peers: Peers, held: contextlib.ExitStack) -> Ended:
        run, notes = self._prepare(peers, held)
        devices = describe_devices(run.devices, peers) or [run.devices]
        leads, folder = peers.index == 0, run.plan.run_dir
        all_or_none(peers, lambda: self._begin(run, devices, held) if leads else None)
        if leads:
            self.screen.begin(Card(run=run, devices=devices), notes)

        def leave(reason: str) -> None:
            if leads:
                summary = summarize_hang(run, reason, self._seconds())
                _write_summary(folder, summary)
                self.screen.break_off(summary, folder)
            if not self.owns_process and peers.count == 1:
                _thread.interrupt_main()
                return
            if leads:
                held.close()
            os._exit(ExitCode.HANG)

        watchdog = Watchdog(
            run.engine.heartbeat,
            seconds=self.config.watchdog_seconds,
            folder=folder,
            peers=peers,
            leave=leave,
        )
        try:
            again = leave_at_once if self.owns_process else raise_at_once
            tell = tell_of_signal if leads else ignore_signal
            with stop_on_signals(run.stop, again, tell), watchdog.watching():
                outcome = run.execute()
        except BaseException as raised:
            from aetheria.hardware.failures import users_mistake  # for an error alone

            error = users_mistake(raised) or raised
            if leads:
                summary = summarize_failure(run, error, self._seconds())
                _write_summary(folder, summary)
                self.screen.break_off(summary, folder)
            if peers.count > 1 and isinstance(error, AetheriaError):
                exit_together(peers, error, whole=self.traceback)  # the others would wait
            if error is not raised:
                raise error from raised
            raise
        ended = Ended(
            outcome.status,
            outcome.reason,
            _EXIT_CODES[outcome.status],
            folder,
            dict(outcome.metrics),
            run.config,
            {},
        )
        # Of all processes: a state that is split over them is gathered by all together.
        params_sha256 = part_sha256(run.program.export_state(outcome.state), "params")
        if not leads:
            self.screen.say(
                f"process {peers.index}: {outcome.status} at step {outcome.progress.step}"
            )
            return ended
        unsaved = run.store.has_saved_nothing()
        if unsaved and ended.exit_code == ExitCode.OK:
            ended = ended._replace(exit_code=ExitCode.FAILED)
        summary = summarize(run, outcome, ended.exit_code, self._seconds(), params_sha256)
        _finish_folder(run, summary)
        self.screen.end(summary, folder)
        if unsaved:
            _report_unsaved(folder, run.store.failures)
        return ended._replace(summary=summary)

    def _prepare(self, peers: Peers, held: contextlib.ExitStack) -> tuple[Run, list[str]]:
        """Finds the snapshot, takes the run folder, checks the request and builds the run.

        Process 0 alone holds the folder, until `held` is closed. A refused request writes nothing.
        """
        request = self.request
        found = all_or_none(
            peers,
            lambda: held.enter_context(claim(request.resolve())) if peers.index == 0 else None,
        )
        plan = all_or_none(peers, lambda: _share_plan(peers, found))
        return all_or_none(peers, lambda: self.build(peers, plan))

    def build(self, peers: Peers, plan: RunPlan) -> tuple[Run, list[str]]:
        """Checks the request and wires the run; compiles and writes nothing.

        Returns:
            The run, and lines that a user should see at the start.

        Raises:
            AetheriaError: the request cannot be met.
        """
        options = RunOptions(
            stop_at_step=self.stop_at_step,
            accept_changes=self.accept_changes,
            started_at=time.time() - self._seconds(),
            auto_micro_batch=self.auto_micro_batch,
            console=self.screen.console,
            needs_console=self.screen.needs_console,
        )
        run = build_run(
            self.config, plan, self.project, peers=peers, options=options, given=self.given
        )
        changes = list(run.changes)
        if peers.index == 0:
            changes += check_disk_space(
                run.plan.run_dir,
                run.program.state_bytes,
                build_retention(self.config),
                overwrite=self.overwrite,
            )
        return run, [*changes, *run.notes]

    def _begin(self, run: Run, devices: Sequence[str], held: contextlib.ExitStack) -> None:
        """Makes the listeners in the run folder, then writes its first files."""
        with undone_if_refused(run.plan):
            run.make_listeners()
        # What is replaced is gone by now: its room may be needed.
        replace(run.plan, overwrite=False).prepare(run.config.to_dict(), run.record)
        held.enter_context(writing_start(run.plan.run_dir, self.project, devices))

    def _seconds(self) -> float:
        return time.perf_counter() - self.started_at


def _share_plan(peers: Peers, plan: RunPlan | None) -> RunPlan:
    if peers.count == 1:
        assert plan is not None, "the only process finds the plan"
        return plan
    from aetheria.snapshots.shared_store import share_plan

    return share_plan(peers, plan)


def _finish_folder(run: Run, summary: Mapping[str, object]) -> None:
    """Writes the summary, and the config again where the folder was removed under the run."""
    plan = run.plan
    if plan.lock is not None:
        with contextlib.suppress(OSError):
            plan.lock.check()
    if not (plan.run_dir / "config.json").exists():
        with contextlib.suppress(OSError):
            plan.run_dir.mkdir(parents=True, exist_ok=True)
            plan.write_config(run.config.to_dict(), run.record)
    _write_summary(plan.run_dir, summary)


def _report_unsaved(folder: Path, failures: Sequence[Mapping[str, object]]) -> None:
    reason = failures[-1]["reason"] if failures else "they were removed under the run"
    print(
        f"{folder}: this start leaves no snapshot ({reason}), so what it learned is lost",
        file=sys.stderr,
    )


def _write_summary(folder: Path, summary: Mapping[str, object]) -> None:
    """A run that has ended has ended well even if the disk is full now: the summary then goes to
    stderr.
    """
    try:
        write_json(folder / "summary.json", summary)
    except OSError as error:
        print(
            f"{folder / 'summary.json'} could not be written: {error}; it would hold: "
            f"{json.dumps(summary)}",
            file=sys.stderr,
        )
