"""What a sweep remembers: its trials, in Optuna's journal. Any number of processes may share it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from aetheria.errors import AetheriaError
from aetheria.snapshots.run_lock import RunLock, living_holder
from aetheria.tools.sweep.lock import SweepLock, try_lock
from aetheria.tools.sweep.settings import Settings
from aetheria.tools.sweep.space import Choice, Dimension, Scalar, Space, grid_of

JOURNAL = "journal.log"
_SETTINGS, RUNS, REASON = "settings", "runs", "reason"  # attributes of a study and of a trial


@dataclass
class Claimed:
    """A trial that this process runs.

    Attributes:
        trial: Optuna's.
        folder: its folder, which is locked.
        point: its values of the space.
        lock: on the folder.
        reported: the steps whose values an earlier process has reported; empty for a new trial.
    """

    trial: Trial
    folder: Path
    point: Mapping[str, Scalar]
    lock: RunLock
    reported: tuple[int, ...]

    @property
    def number(self) -> int:
        """The number of the trial, from 0."""
        return self.trial.number


class SweepStudy:
    """Repository: the trials of one sweep.

    Args:
        folder: of the sweep.
        settings: what decides its trials.
        space: what varies.

    Raises:
        AetheriaError: the folder holds something else, or a sweep with other settings.
    """

    def __init__(self, folder: Path, settings: Settings, space: Space):
        self.folder, self._settings, self._space = folder, settings, space
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._grid = grid_of(space) if settings.sampler == "grid" else []
        self.lock = SweepLock(folder)
        with self.lock.held():
            _drop_half_line(folder / JOURNAL)
            lock: Any = self.lock  # Optuna uses its two methods, and exports no base class
            journal = JournalFileBackend(str(folder / JOURNAL), lock)
            self._study = optuna.create_study(
                storage=JournalStorage(journal),
                study_name=folder.name,
                direction="minimize" if settings.mode == "min" else "maximize",
                pruner=_PRUNERS[settings.pruner](),
                load_if_exists=True,
            )
            there = self._study.user_attrs.get(_SETTINGS)
            if there is None:
                self._study.set_user_attr(_SETTINGS, settings.to_json())
            else:
                settings.check_same(there, folder)

    def trials(self) -> list[FrozenTrial]:
        """Every trial, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def folder_of(self, number: int) -> Path:
        """The folder of a trial."""
        return self.folder / f"trial_{number}"

    def claim(self, num_trials: int) -> Claimed | None:
        """Takes a trial that was begun and that no living process runs; else begins another, if
        there are fewer than `num_trials`; else None.
        """
        with self.lock.held():
            trials = self.trials()
            for frozen in trials:
                if frozen.state is TrialState.RUNNING and (claimed := self._take(frozen.number)):
                    return claimed
            if len(trials) >= num_trials:
                return None
            self._prepare_sampler(len(trials))
            trial = self._study.ask()
            return self._take(trial.number, trial)

    def _take(self, number: int, trial: Trial | None = None) -> Claimed | None:
        lock = try_lock(self.folder_of(number))
        if lock is None:
            return None
        reported: tuple[int, ...] = ()
        if trial is None:
            frozen = self.trials()[number]
            if frozen.state is not TrialState.RUNNING:  # another process has just ended it
                lock.release()
                return None
            self._prepare_sampler(number)
            trial = Trial(self._study, frozen._trial_id)
            reported = tuple(frozen.intermediate_values)
        # A trial that was killed while it was begun has some of its values; it draws the others.
        point = {key: _suggest(trial, key, each) for key, each in self._space.items()}
        return Claimed(trial, self.folder_of(number), point, lock, reported)

    def _prepare_sampler(self, number: int) -> None:
        """Each trial has its own random numbers, so that a restart does not draw earlier ones
        again.
        """
        seed = (self._settings.seeds[0] * 1_000_003 + number) % 2**32
        if self._grid:
            self._study.sampler = optuna.samplers.PartialFixedSampler(
                dict(self._grid[number % len(self._grid)]),
                optuna.samplers.RandomSampler(seed=seed),
            )
        elif self._settings.sampler == "random":
            self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            self._study.sampler = optuna.samplers.TPESampler(seed=seed)

    def finish(
        self,
        claimed: Claimed,
        state: TrialState,
        value: float | None,
        runs: list[dict[str, Any]],
        reason: str,
    ) -> None:
        """Records how a trial ended, and frees it."""
        with self.lock.held():
            claimed.trial.set_user_attr(RUNS, runs)
            claimed.trial.set_user_attr(REASON, reason)
            # Of a pruned trial Optuna takes the last value that was reported.
            is_complete = state is TrialState.COMPLETE
            self._study.tell(claimed.number, value if is_complete else None, state=state)
            claimed.lock.release()

    def num_to_run(self, num_trials: int) -> int:
        """How many trials no living process runs and no process has ended."""
        trials = self.trials()
        begun = [each.number for each in trials if each.state is TrialState.RUNNING]
        free = sum(living_holder(self.folder_of(number)) is None for number in begun)
        return max(0, num_trials - len(trials)) + free


_PRUNERS = {
    "median": optuna.pruners.MedianPruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
    "none": optuna.pruners.NopPruner,
}


def _suggest(trial: Trial, key: str, dimension: Dimension) -> Scalar:
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(key, dimension.values)
    low, high, log, step = dimension.low, dimension.high, dimension.log, dimension.step
    if dimension.whole:
        return trial.suggest_int(key, int(low), int(high), log=log, step=int(step or 1))
    return trial.suggest_float(key, low, high, log=log, step=step)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise AetheriaError(f"--workdir: expected a folder, got a file, {folder}; name another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / JOURNAL).exists():
        raise AetheriaError(
            f"--workdir: expected the folder of a sweep, or an empty or new one, got {folder}, "
            f"which holds files and no {JOURNAL}; name another"
        )


def _drop_half_line(journal: Path) -> None:
    """A kill, or a full disk, may have left the last line half written; Optuna would read no
    further than it.
    """
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)
