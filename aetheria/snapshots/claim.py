"""Locks a run folder for one process: makes it if there is none, and frees it in the end."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from aetheria.errors import SnapshotError
from aetheria.snapshots.run_folder import cannot_write, look
from aetheria.snapshots.run_lock import RunLock
from aetheria.snapshots.run_plan import RunPlan

EXPECTED_UNCHANGED = "expected what was there when this start began"


@contextlib.contextmanager
def claim(plan: RunPlan) -> Iterator[RunPlan]:
    """Locks the run folder of a plan until the block ends.

    A folder that is made here and is still empty in the end is removed: a refused request leaves
    nothing behind.

    Yields:
        The plan with the folder that is locked. If the plan's folder is a number under `runs/`, it
        is the next one that is free.

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
    """Takes the first free number: `mkdir` succeeds in one process alone."""
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
    raise AssertionError("there is always another number")


def _take_folder(plan: RunPlan, made: list[Path]) -> tuple[RunPlan, RunLock]:
    """Locks the folder of the plan, and checks that it holds what it held for the plan."""
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
            f"{folder}: {EXPECTED_UNCHANGED}, got the work of another process, which has ended "
            "since; start again"
        )
    return replace(plan, lock=lock, notes=tuple(notes)), lock


def _make(folder: Path, made: list[Path]) -> None:
    """Makes a folder with its parents, and adds the new ones to `made`, the deepest first."""
    made += [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
