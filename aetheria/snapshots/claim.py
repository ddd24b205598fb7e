"""Takes a run folder for one process: makes it if need be, locks it, and frees it again."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from aetheria.errors import SnapshotError
from aetheria.snapshots.run_lock import RunLock
from aetheria.snapshots.runs import RunPlan, cannot_write, look


@contextlib.contextmanager
def claim(plan: RunPlan) -> Iterator[RunPlan]:
    """Holds the run folder of a plan until the block ends.

    A folder that was made here and is still empty by then is removed: a refused request leaves
    nothing behind.

    Yields:
        The plan with the folder it got; where the plan's was a number under `runs/`, the next
        one that was free.

    Raises:
        SnapshotError: another process holds the folder, or has written there since the plan was
            made; or the folder cannot be written to.
    """
    made: list[Path] = []
    try:
        plan, lock = _take_number(plan, made) if plan.numbered else _take_folder(plan, made)
        try:
            yield plan
        finally:
            lock.release()
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def _take_number(plan: RunPlan, made: list[Path]) -> tuple[RunPlan, RunLock]:
    """Takes the first free number: `mkdir` gives it to one process alone."""
    family = plan.run_dir.parent
    try:
        _make(family, made)
        for number in count(int(plan.run_dir.name)):
            folder = family / str(number)
            with contextlib.suppress(FileExistsError, SnapshotError):
                folder.mkdir()
                lock = RunLock(folder)
                lock.acquire()
                made.insert(0, folder)
                return replace(plan, run_dir=folder, lock=lock), lock
    except OSError as error:
        raise cannot_write(plan.run_dir, error) from error
    raise AssertionError("numbers do not end")


def _take_folder(plan: RunPlan, made: list[Path]) -> tuple[RunPlan, RunLock]:
    """Takes the folder itself, and looks again at what the plan rests on."""
    folder = plan.run_dir
    lock = RunLock(folder)
    try:
        _make(folder, made)
        notes = lock.acquire()
    except OSError as error:
        raise cannot_write(folder, error) from error
    if plan.found is not None and plan.found != look(folder):
        lock.release()
        raise SnapshotError(
            f"{folder}: expected what was there when this start began, got the work of another "
            "process, which has ended since; start again"
        )
    return replace(plan, lock=lock, notes=tuple(notes)), lock


def _make(folder: Path, made: list[Path]) -> None:
    """Makes a folder with its parents, and notes which of them are new, the deepest first."""
    made += [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
