"""`aetheria train`: one run, from its request to its summary and exit code."""

import time
from dataclasses import dataclass
from pathlib import Path

from aetheria.config import Config
from aetheria.config_files import load_config
from aetheria.errors import ExitCode

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
        accept_changes: resume although the config sets another course from here on.
        project: the project folder; None: found from the config file.
        stop_at_step: leave the run at that step, to be resumed.
    """

    config_file: Path
    overrides: tuple[str, ...] = ()
    workdir: Path | None = None
    resume: str | None = None
    overwrite: bool = False
    accept_changes: bool = False
    project: Path | None = None
    stop_at_step: int | None = None

    def execute(self) -> int:
        """Trains and returns the exit code.

        Raises:
            AetheriaError: the request cannot be met; nothing was written.
        """
        began = time.perf_counter()
        config = load_config(self.config_file, self.overrides)
        return self._train(config, began)

    def _train(self, config: Config, began: float) -> int:
        # Imported late: a wrong key is reported before jax is loaded.
        from aetheria.build import build_retention, build_run
        from aetheria.command.summary import print_table, summarize, summarize_failure
        from aetheria.plugins.discovery import find_project
        from aetheria.resilience.config_diff import check_config_change
        from aetheria.resilience.runs import RunRequest, write_json
        from aetheria.resilience.signals import stop_on_signals

        plan = RunRequest(
            config_name=self.config_file.stem,
            workdir=self.workdir,
            resume=self.resume,
            overwrite=self.overwrite,
            retention=build_retention(config),
        ).resolve()
        changes = []
        if plan.snapshot is not None:
            before = plan.snapshot.record["config"]
            changes = check_config_change(before, config, accept=self.accept_changes)
        project = find_project(self.config_file, self.project)
        run = build_run(config, plan, project, self.stop_at_step)
        print(*plan.describe(), *changes, sep="\n", flush=True)
        plan.prepare(config.to_dict())
        try:
            with stop_on_signals(run.stop):
                outcome = run.execute()
        except BaseException as error:
            summary = summarize_failure(plan, error, time.perf_counter() - began)
            write_json(plan.run_dir / "summary.json", summary)
            raise
        exit_code = _EXIT_CODES[outcome.status]
        summary = summarize(run, outcome, exit_code, time.perf_counter() - began)
        write_json(plan.run_dir / "summary.json", summary)
        print_table(summary, plan.run_dir)
        return exit_code
