"""`aetheria train`: one run, from its request to its summary and exit code."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aetheria.command.together import leave_peers, together
from aetheria.config import Config
from aetheria.config_files import load_config
from aetheria.errors import AetheriaError, ExitCode
from aetheria.protocols import JoinOptions, Peers
from aetheria.terminal import safe_output

if TYPE_CHECKING:
    from aetheria.build import Run

_EXIT_CODES = {
    "completed": ExitCode.OK,
    "preempted": ExitCode.PREEMPTED,
    "halted": ExitCode.NONFINITE_HALT,
}


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Command: trains what a config describes.

    Attributes:
        config_file: `.py`, `.yaml` or `.json`.
        overrides: `key=value` texts applied to it.
        workdir: the run folder; None: a new one under `runs/<config name>/`.
        resume: `auto`, `latest`, `best`, a step or a path; None: start afresh.
        overwrite: whether an earlier run in `workdir` may be removed.
        accept_changes: resume although the config, a default in the code, a setting of JAX or the
            data has changed since the snapshot.
        project: the project folder; None: found from the config file.
        traceback: print the whole traceback of an error, not the user's own frames alone.
        stop_at_step: leave the run at that step, to be resumed.
        join: the other processes of the run, where no launcher says.
    """

    config_file: Path
    overrides: tuple[str, ...] = ()
    workdir: Path | None = None
    resume: str | None = None
    overwrite: bool = False
    accept_changes: bool = False
    project: str | Path | None = None
    traceback: bool = False
    stop_at_step: int | None = None
    join: JoinOptions = field(default_factory=JoinOptions)

    def execute(self) -> int:
        """Trains and returns the exit code.

        Raises:
            AetheriaError: the request cannot be met; nothing was written.
        """
        began = time.perf_counter()
        config = load_config(self.config_file, self.overrides)
        # Imported late: a wrong key is reported before numpy is loaded.
        from aetheria.resilience.signals import leave_on_signals

        with contextlib.ExitStack() as held, safe_output(), leave_on_signals(held.close):
            return self._train(config, began, held)

    def _train(self, config: Config, began: float, held: contextlib.ExitStack) -> int:
        from aetheria.build import join_peers, prepare_environment

        prepare_environment(config, os.environ)
        peers = join_peers(self.join, os.environ)
        try:
            with held:
                return self._train_with(peers, config, began, held)
        except AetheriaError:
            raise
        except BaseException as error:
            if peers.count > 1:
                leave_peers(peers, error, whole=self.traceback)
            raise

    def _train_with(
        self, peers: Peers, config: Config, began: float, held: contextlib.ExitStack
    ) -> int:
        from aetheria.build import describe_devices
        from aetheria.command.summary import (
            print_table,
            summarize,
            summarize_failure,
            summarize_hang,
        )
        from aetheria.resilience.manifest import part_sha256
        from aetheria.resilience.signals import stop_on_signals
        from aetheria.resilience.watchdog import Watchdog

        run, notes = self._prepare(peers, config, began, held)
        notes += describe_devices(run, peers)
        leads, folder = peers.index == 0, run.plan.run_dir
        together(peers, lambda: _begin(run, config) if leads else None)
        if leads:
            print(*run.plan.describe(), *notes, sep="\n", flush=True)

        def leave(reason: str) -> NoReturn:
            if leads:
                _write_summary(folder, summarize_hang(run, reason, time.perf_counter() - began))
                held.close()
            os._exit(ExitCode.HANG)

        watchdog = Watchdog(
            run.engine.activity,
            seconds=config.watchdog_seconds,
            folder=folder,
            peers=peers,
            leave=leave,
        )
        try:
            with stop_on_signals(run.stop), watchdog.watching():
                outcome = run.execute()
        except BaseException as error:
            if leads:
                failure = summarize_failure(run, error, time.perf_counter() - began)
                _write_summary(folder, failure)
            if peers.count > 1 and isinstance(error, AetheriaError):
                leave_peers(peers, error, whole=self.traceback)  # the others would wait
            raise
        exit_code = _EXIT_CODES[outcome.status]
        # Of all processes: a state that is split over them is gathered by all together.
        params_sha256 = part_sha256(run.program.export_state(outcome.state), "params")
        if not leads:
            print(f"process {peers.index}: {outcome.status} at step {outcome.progress.step}")
            return exit_code
        unsaved = run.store.has_saved_nothing()
        if unsaved and exit_code == ExitCode.OK:
            exit_code = ExitCode.FAILED
        seconds = time.perf_counter() - began
        summary = summarize(run, outcome, exit_code, seconds, params_sha256)
        _finish_folder(run, config, summary)
        print_table(summary, folder)
        if unsaved:
            _tell_unsaved(folder, run.store.failures)
        return exit_code

    def _prepare(
        self, peers: Peers, config: Config, began: float, held: contextlib.ExitStack
    ) -> tuple["Run", list[str]]:
        """Finds the snapshot, takes the run folder, checks the request and builds the run.

        Process 0 alone holds the folder, until `held` is closed. A refused request writes nothing.
        """
        from aetheria.build import build_retention, build_run
        from aetheria.plugins.discovery import find_project
        from aetheria.resilience.claim import claim
        from aetheria.resilience.room import check_room
        from aetheria.resilience.runs import RunRequest
        from aetheria.resilience.shared import share_plan

        request = RunRequest(
            config_name=self.config_file.stem,
            workdir=self.workdir,
            resume=self.resume,
            overwrite=self.overwrite,
            retention=build_retention(config),
        )
        found = together(
            peers,
            lambda: held.enter_context(claim(request.resolve())) if peers.index == 0 else None,
        )
        plan = together(peers, lambda: share_plan(peers, found))
        project = find_project(self.config_file, self.project)

        def build() -> tuple["Run", list[str]]:
            since = time.time() - (time.perf_counter() - began)
            run = build_run(
                config, plan, project, self.stop_at_step, peers, since, self.accept_changes
            )
            changes = list(run.changes)
            if peers.index == 0:
                changes += check_room(
                    run.plan.run_dir,
                    run.program.state_bytes,
                    build_retention(config),
                    overwrite=self.overwrite,
                )
            return run, [*changes, *run.notes]

        return together(peers, build)


def _finish_folder(run: "Run", config: Config, summary: Mapping[str, Any]) -> None:
    """Writes the summary, and the config again where the folder was removed under the run."""
    plan = run.plan
    if plan.lock is not None:
        with contextlib.suppress(OSError):
            plan.lock.check()
    if not (plan.run_dir / "config.json").exists():
        with contextlib.suppress(OSError):
            plan.run_dir.mkdir(parents=True, exist_ok=True)
            plan.write_config(config.to_dict(), run.provenance)
    _write_summary(plan.run_dir, summary)


def _tell_unsaved(folder: Path, failures: Sequence[Mapping[str, Any]]) -> None:
    reason = failures[-1]["reason"] if failures else "they were removed under the run"
    print(
        f"{folder}: this start leaves no snapshot ({reason}), so what it learned is lost",
        file=sys.stderr,
    )


def _begin(run: "Run", config: Config) -> None:
    """Makes the listeners in the run folder, then writes its first files."""
    from aetheria.resilience.undo import undone_if_refused

    with undone_if_refused(run.plan):
        run.make_listeners()
    # What is replaced is gone by now: its room may be needed.
    replace(run.plan, overwrite=False).prepare(config.to_dict(), run.provenance)


def _write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """A run that has ended has ended well even if the disk is full now: the summary then goes to
    stderr.
    """
    from aetheria.resilience.runs import write_json

    try:
        write_json(folder / "summary.json", summary)
    except OSError as error:
        print(
            f"{folder / 'summary.json'} could not be written: {error}; it would hold: "
            f"{json.dumps(summary)}",
            file=sys.stderr,
        )
