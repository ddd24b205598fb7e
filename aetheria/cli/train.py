"""`aetheria train`: one run, from its request to its summary and exit code."""

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aetheria.cli.terminal import safe_output
from aetheria.config.files import load_config
from aetheria.hardware.processes.distributed_config import DistributedConfig

if TYPE_CHECKING:
    pass


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
    join: DistributedConfig = field(default_factory=DistributedConfig)

    def execute(self) -> int:
        """Trains and returns the exit code.

        Raises:
            AetheriaError: the request cannot be met; nothing was written.
        """
        started_at = time.perf_counter()
        config = load_config(self.config_file, self.overrides)
        # Imported late: a wrong key is reported before numpy is loaded.
        from aetheria.hardware.processes.signals import leave_on_signals

        with contextlib.ExitStack() as held, safe_output(), leave_on_signals(held.close):
            from aetheria.plugins.discovery import find_project
            from aetheria.training.session import TrainingSession

            session = TrainingSession(
                config=config,
                config_name=self.config_file.stem,
                project=find_project(self.config_file, self.project),
                workdir=self.workdir,
                resume=self.resume,
                overwrite=self.overwrite,
                accept_changes=self.accept_changes,
                stop_at_step=self.stop_at_step,
                distributed=self.join,
                traceback=self.traceback,
                started_at=started_at,
            )
            return session.run(held)
