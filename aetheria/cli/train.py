"""`aetheria train`: one run, from its request to its summary and exit code."""

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag, Section
from aetheria.cli.terminal import prints_to_stderr, safe_output
from aetheria.config.files import load_config, to_yaml
from aetheria.errors import AetheriaError, ExitCode
from aetheria.hardware.processes.address import MAX_PROCESSES
from aetheria.hardware.processes.distributed_config import DistributedConfig

if TYPE_CHECKING:
    from aetheria.training.screen import Screen

_FAST = ("max_steps=2", "overfit_batches=2", "log_every_steps=1", "loggers=[console]")
_CONTRADICTIONS = (
    ("fast_dev_run", "workdir"),
    ("fast_dev_run", "resume"),
    ("name", "workdir"),
)


@dataclass(frozen=True, kw_only=True)
class DistributedFlags(DistributedConfig):
    """The processes of a run that were started by hand.

    Attributes:
        coordinator: where process 0 listens.
        num_processes: how many processes the run has.
        process_id: the number of this process, from 0.
        initialization_timeout: how long to wait until all processes are connected;
            --join-timeout is the old name.
        heartbeat_timeout: a process that is silent for so long counts as dead, and the run ends.
        token: a secret that all processes of the run share; set it in the environment variable
            AETHERIA_TOKEN instead to keep it out of the process list.
    """

    coordinator: Annotated[str | None, Flag(values.address, "HOST:PORT")] = None
    num_processes: Annotated[int | None, Flag(values.whole(1, MAX_PROCESSES), "N")] = None
    process_id: Annotated[int | None, Flag(values.whole(0, MAX_PROCESSES - 1), "I")] = None
    initialization_timeout: Annotated[
        float, Flag(values.duration, "SECONDS", old_name="join-timeout")
    ] = DistributedConfig.initialization_timeout
    heartbeat_timeout: Annotated[float, Flag(values.duration, "SECONDS")] = (
        DistributedConfig.heartbeat_timeout
    )
    token: Annotated[str | None, Flag(values.token, "TOKEN")] = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class TrainCommand(ConfigFields):
    """Trains the model that a config describes; given a run folder, continues that run.

    Examples:
        aetheria train configs/mlp.py --set epochs=3
        aetheria train config.yaml --workdir=run --resume=auto
        aetheria train config.py:small --dry-run
        aetheria train config.yaml --log-format=json
        aetheria train runs/mlp/1 --set epochs=20 --accept-changes
        aetheria train config.yaml --resume=runs/mlp/1@best --name=longer

    Exit codes:
        0: the run is complete
        1: it failed, or left no snapshot
        2: a mistake; nothing was written
        3: halted, since a loss was not finite or a device computed wrong
        75: stopped with a snapshot, to be resumed
        76: no progress for watchdog_seconds

    Attributes:
        workdir: the run folder (default: the next runs/<config name>/<n>).
        name: the run folder is the next runs/<name>/<n>.
        resume: auto, latest, best, a step, the path of a snapshot, or RUN@best, RUN@latest or
            RUN@STEP (default: start afresh).
        overwrite: replace an earlier run in --workdir.
        accept_changes: resume although the config, a default in the code, a setting of JAX or the
            data has changed since the snapshot, so that the rest of the run differs.
        stop_at_step: take a snapshot at step N and exit with 75; the run can be resumed.
        auto_micro_batch: raise grad_accumulation_steps until a step fits the device's memory, by
            what the compiler says; a resumed run keeps its number.
        overfit_batches: train and evaluate on the first N global batches alone, to see whether the
            model can learn them by heart.
        print_config: print the whole config as YAML, defaults and overrides included, and exit.
        dry_run: check the config, the data and the model as a run does, say what it would do, and
            exit; nothing is compiled or written.
        fast_dev_run: take two steps, evaluate and save on two global batches in a temporary folder,
            to see whether everything works; nothing is kept.
        quiet: print errors and the last line alone.
        verbose: print every parameter, every report of training and every snapshot too.
        log_format: json prints a JSON object a line on stdout, for programs, and nothing else
            there: see docs/how-to/terminal.md.
    """

    workdir: Annotated[Path | None, Flag(values.local_path, "DIR")] = None
    name: Annotated[str | None, Flag(values.folder_name, "NAME")] = None
    resume: Annotated[str | None, Flag(metavar="WHAT")] = None
    overwrite: bool = False
    accept_changes: bool = False
    stop_at_step: Annotated[int | None, Flag(values.positive("a step"), "N")] = None
    auto_micro_batch: bool = False
    overfit_batches: Annotated[int | None, Flag(values.positive("a number"), "N")] = None
    print_config: bool = False
    dry_run: bool = False
    fast_dev_run: bool = False
    quiet: bool = False
    verbose: bool = False
    log_format: Literal["text", "json"] = "text"
    distributed: Annotated[
        DistributedFlags,
        Section("Several processes started by hand (torchrun and srun need none of these)"),
    ] = field(default_factory=DistributedFlags)

    def execute(self) -> int:
        """Trains and returns the exit code.

        Raises:
            AetheriaError: the request cannot be met; nothing was written.
        """
        started_at = time.perf_counter()
        if self.dry_run and self.auto_micro_batch:
            raise AetheriaError(
                "--auto-micro-batch: expected it without --dry-run, which compiles nothing, got "
                "both; leave one out"
            )
        self._check_output()
        with safe_output(), self._stdout() as stdout:
            return self._execute(stdout, started_at)

    def _execute(self, stdout: TextIO, started_at: float) -> int:
        config = load_config(self.config_file, self._all_overrides())
        if self.print_config:
            print(to_yaml(config), end="")
            return int(ExitCode.OK)
        # Imported late: a wrong key is reported before numpy is loaded.
        from aetheria.hardware.processes.signals import leave_on_signals

        with contextlib.ExitStack() as held, leave_on_signals(held.close):
            from aetheria.plugins.discovery import find_project
            from aetheria.training.session import TrainingSession

            workdir, resume = self.workdir, self.resume
            if self.config_file.is_dir() and not self.fast_dev_run:
                workdir, resume = self._continued()
            if self.fast_dev_run:
                folder = held.enter_context(tempfile.TemporaryDirectory(prefix="aetheria-"))
                workdir = Path(folder) / "run"
            session = TrainingSession(
                config=config,
                config_name=self.name or _name_of(self.config_file),
                project=find_project(self.config_file, self.project),
                workdir=workdir,
                resume=resume,
                overwrite=self.overwrite,
                accept_changes=self.accept_changes,
                stop_at_step=self.stop_at_step,
                auto_micro_batch=self.auto_micro_batch,
                distributed=self.distributed,
                traceback=self.traceback,
                screen=self._screen(stdout),
                started_at=started_at,
            )
            if self.dry_run:
                from aetheria.training.dry_run import describe

                print(*describe(session, verbose=self.verbose), sep="\n")
                return int(ExitCode.OK)
            ended = session.run(held)
        if self.fast_dev_run and not self.quiet:
            print("fast dev run: trained, evaluated and saved; nothing was kept")
        return ended.exit_code

    def _stdout(self) -> contextlib.AbstractContextManager[TextIO]:
        return (
            prints_to_stderr() if self.log_format == "json" else contextlib.nullcontext(sys.stdout)
        )

    def _screen(self, stdout: TextIO) -> "Screen":
        from aetheria.training.screen import TextScreen

        if not self.quiet and self.log_format == "text":
            return TextScreen(verbose=self.verbose)
        from aetheria.training.other_screens import JsonScreen, QuietScreen

        return QuietScreen() if self.quiet else JsonScreen(stdout)

    def _check_output(self) -> None:
        """Raises AetheriaError if options ask for two forms of output."""
        asked = {
            "--quiet": self.quiet,
            "--verbose": self.verbose,
            "--log-format=json": self.log_format == "json",
        }
        asked_for = [flag for flag, is_asked in asked.items() if is_asked]
        if self.log_format == "json":
            asked_for += ["--dry-run"] * self.dry_run + ["--print-config"] * self.print_config
        if len(asked_for) > 1:
            raise AetheriaError(
                f"{asked_for[0]}: expected it without {asked_for[1]}, got both; leave one out"
            )

    def _continued(self) -> tuple[Path | None, str | None]:
        """The run folder and what to resume from, where the config is that of a run: it goes on, or
        is forked.
        """
        from aetheria.snapshots.finding import is_choice

        run, workdir, resume = self.config_file, self.workdir, self.resume or "latest"
        if self.overwrite:
            return workdir or run, self.resume
        if workdir is None and resume in ("latest", "auto"):
            return run, resume
        return workdir, f"{run}@{resume}" if is_choice(resume) else resume

    def _all_overrides(self) -> list[str]:
        """Those given, and those that options stand for.

        Raises:
            AetheriaError: two options contradict each other.
        """
        for name, other in _CONTRADICTIONS:
            if getattr(self, name) and getattr(self, other) is not None:
                raise AetheriaError(
                    f"--{name.replace('_', '-')}: expected it without --{other}, got both; leave "
                    "one out"
                )
        overrides = [*self.overrides, *(_FAST if self.fast_dev_run else ())]
        if self.overfit_batches is not None:
            overrides.append(f"overfit_batches={self.overfit_batches}")
        return overrides


def _name_of(config_file: Path) -> str:
    """What a new run folder is named after: the file, or the run `runs/NAME/1`.

    >>> _name_of(Path("configs/mlp.py"))
    'mlp'
    """
    if not config_file.is_dir():
        return config_file.stem
    folder = config_file.resolve()
    return folder.parent.name if folder.name.isdigit() else folder.name
