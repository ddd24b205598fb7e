"""`aetheria sweep`: many trials of one config, and which values of its keys are the best."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag, Repeated
from aetheria.config import Config
from aetheria.config.files import load_config
from aetheria.errors import ConfigError, ExitCode, shown
from aetheria.plugins.packages import require_package
from aetheria.tools.sweep.rehearsal import check_models, dry_run
from aetheria.tools.sweep.settings import Settings
from aetheria.tools.sweep.space import Space, check_space, grid_of, read_space

_SWEEPS = Path("sweeps")
_NUM_TRIALS = 20
_MAX_SEED = 2**32 - 1
_FORBIDDEN = ("snapshot.monitor", "snapshot.mode")  # they say which trial is the best


def _sbatch_option(text: str) -> str:
    """Reads an option of sbatch without its hyphens."""
    if text.startswith("-") or not text.strip():
        raise ValueError(f"expected an option without hyphens, got {shown(text)}")
    return text


@dataclass(frozen=True, kw_only=True)
class SweepCommand(ConfigFields):
    """Searches the values of some keys of a config: many trials, each an ordinary run.

    Examples:
        aetheria sweep config.yaml --space learning_rate=log:1e-4:1e-1 --trials 12
        aetheria sweep config.yaml --space batch_size=32,64 --space seed=0,1 --sampler=grid
        aetheria sweep config.yaml --space space.yaml --seeds 3 --jobs 2 --workdir sweeps/wide
        aetheria sweep config.yaml --space space.yaml --slurm --sbatch time=01:00:00

    Exit codes:
        0: all trials have ended
        1: no trial is complete
        2: a mistake; nothing was run
        75: stopped; the same command continues the sweep

    Attributes:
        space: a key and its values, such as batch_size=32,64 or
            learning_rate=log:1e-4:1e-1 (or uniform:, int:, logint:); or a YAML file of these; may
            be repeated.
        trials: how many trials the sweep has in all (default: 20, with --sampler=grid every point).
        seeds: runs of each trial with K seeds in a row; its value is their mean.
        jobs: how many trials run at a time, each in a process of its own.
        workdir: the folder of the sweep (default: sweeps/<config name>); the same command continues
            the sweep that is there.
        sampler: what chooses the values: tpe learns from the trials before.
        pruner: what ends trials early that are worse than others at the same step.
        slurm: submit the trials to SLURM as an array of jobs, --jobs at a time, and wait.
        sbatch: an option of sbatch for each job, such as gres=gpu:1; may be repeated.
        stop_after_trials: leave the sweep when this process has run N trials.
    """

    space: Annotated[tuple[str, ...], Repeated(metavar="KEY=VALUES")] = ()
    trials: Annotated[int | None, Flag(values.positive("a number"), "N")] = None
    seeds: Annotated[int, Flag(values.whole(1, 1000), "K")] = 1
    jobs: Annotated[int, Flag(values.whole(1, 1000), "N")] = 1
    workdir: Annotated[Path | None, Flag(values.local_path, "DIR")] = None
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "halving", "none"] = "median"
    slurm: bool = False
    sbatch: Annotated[tuple[str, ...], Repeated(_sbatch_option, "NAME=VALUE")] = ()
    stop_after_trials: Annotated[int | None, Flag(values.positive("a number"), "N")] = None

    def execute(self) -> int:
        """Runs the trials and prints what came out.

        Raises:
            AetheriaError: the request cannot be met; nothing was run.
        """
        config = load_config(self.config_file, self.overrides)
        space, written = read_space(self.space)
        settings = self._settings(config, written)
        check_space(space, settings.config)
        num_trials = self._num_trials(space)
        require_package("sweep", "optuna", "sweep")

        from aetheria.plugins.discovery import find_project
        from aetheria.tools.sweep.results import print_results, write_results
        from aetheria.tools.sweep.slurm import check_slurm, run_array
        from aetheria.tools.sweep.study import JOURNAL, SweepStudy
        from aetheria.tools.sweep.workers import run_trials

        if self.slurm:
            check_slurm()
        project = find_project(self.config_file, self.project)
        folder = self.workdir or _SWEEPS / _name_of(self.config_file)
        if not (folder / JOURNAL).exists():
            check_models(space, settings.config, project)
            dry_run(space, settings.config, project)
        study = SweepStudy(folder, settings, space)
        write_results(study, settings)
        if self.slurm:
            stopped = run_array(
                self._task_command(folder, project), study, num_trials, self.jobs, self.sbatch
            )
        else:
            stopped = run_trials(
                study,
                settings,
                project,
                num_trials=num_trials,
                jobs=self.jobs,
                most=self.stop_after_trials,
            )
        results = write_results(study, settings)
        print_results(results, folder)
        print(f"sweep folder: {folder}")
        if stopped:
            return int(ExitCode.PREEMPTED)
        return int(ExitCode.OK if results["best"] or self.stop_after_trials else ExitCode.FAILED)

    def _settings(self, config: Config, written: dict[str, str]) -> Settings:
        for key in _FORBIDDEN:
            if key in written:
                raise ConfigError(
                    f"--space {key}: expected a key that trials may differ in, got {key}, by which "
                    f"they are compared; use --set {key}=..."
                )
        if "seed" in written and self.seeds > 1:
            raise ConfigError(
                f"--seeds: expected 1 with seed in --space, got {self.seeds}; leave one out"
            )
        if config.seed + self.seeds - 1 > _MAX_SEED:
            raise ConfigError(
                f"seed: expected at most {_MAX_SEED - self.seeds + 1} with --seeds={self.seeds}, "
                f"got {config.seed}; use a smaller one"
            )
        if not _writes_jsonl(config):
            config = replace(config, loggers=(*config.loggers, "jsonl"))
        return Settings(
            config=json.loads(json.dumps(config.to_dict())),
            space=written,
            metric=config.snapshot.monitor,
            mode=config.snapshot.mode,
            sampler=self.sampler,
            pruner=self.pruner,
            seeds=tuple(range(config.seed, config.seed + self.seeds)),
        )

    def _num_trials(self, space: Space) -> int:
        if self.sampler != "grid":
            return self.trials or _NUM_TRIALS
        points = len(grid_of(space))
        return min(self.trials or points, points)

    def _task_command(self, folder: Path, project: Path) -> list[str]:
        """The words of this command, for a job that runs one trial."""
        options = {
            "trials": self.trials,
            "seeds": self.seeds,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "workdir": folder,
            "project": project,
            "stop-after-trials": 1,
        }
        return [
            *(sys.executable, "-m", "aetheria", "sweep", str(self.config_file)),
            *(f"--set={each}" for each in self.overrides),
            *(f"--space={each}" for each in self.space),
            *(f"--{name}={value}" for name, value in options.items() if value is not None),
        ]


def _writes_jsonl(config: Config) -> bool:
    return any(each == "jsonl" or list(each) == ["jsonl"] for each in config.loggers)


def _name_of(config_file: Path) -> str:
    return config_file.resolve().name if config_file.is_dir() else config_file.stem
