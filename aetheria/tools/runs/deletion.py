"""Deletes run folders: only what a run wrote, and only where no process writes."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aetheria.errors import AetheriaError
from aetheria.snapshots.run_lock import HOLDER, LOCK, RunLock, refuse_if_held
from aetheria.training.run_info import RunInfo, is_certainly_run, read_run, run_files, size_of


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What deleting a run removes, and what stays.

    Attributes:
        run: the run.
        size_bytes: of what is removed.
        stays: names in its folder that no run writes; they and the folder stay.
    """

    run: RunInfo
    size_bytes: int
    stays: Sequence[str]

    def execute(self) -> None:
        """Removes the files.

        Raises:
            SnapshotError: a process has started to write there.
            OSError: the system refuses.
        """
        folder = self.run.path
        lock = RunLock(folder)
        lock.acquire()
        try:
            for path in run_files(folder)[0]:
                if path.name not in (LOCK, HOLDER):  # they are ours now
                    _remove(path)
        finally:
            lock.release()
        if not self.stays:
            with contextlib.suppress(OSError):  # somebody put something there meanwhile
                folder.rmdir()


def plan_deletions(folders: Iterable[Path]) -> list[Deletion]:
    """Finds what deleting some runs removes; changes nothing.

    Raises:
        AetheriaError: a folder holds no run, is a link, or a living process holds it; a line each.
    """
    problems: list[str] = []
    found: dict[str, Deletion] = {}
    for folder in folders:
        try:
            _check(folder)
            written, stays = run_files(folder)
        except AetheriaError as error:
            problems.extend(error.problems)
            continue
        except OSError as error:
            problems.append(
                f"runs delete: expected a folder that can be read, got {folder} "
                f"({error.strerror}); leave it out"
            )
            continue
        found[os.path.realpath(folder)] = Deletion(
            run=read_run(folder), size_bytes=sum(map(size_of, written)), stays=stays
        )
    if problems:
        raise AetheriaError(*problems)
    return list(found.values())


def _check(folder: Path) -> None:
    if folder.is_symlink():
        raise AetheriaError(
            f"runs delete: expected a run folder, got {folder}, a link to {os.readlink(folder)}; "
            "name that folder"
        )
    if not folder.is_dir() or not is_certainly_run(folder):
        raise AetheriaError(
            f"runs delete: expected a run folder, got {folder}, which holds no run; name another, "
            "or remove it yourself"
        )
    refuse_if_held(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
