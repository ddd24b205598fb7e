"""Prepares a run folder for loggers; restores it if one of them is refused."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from aetheria.snapshots.run_folder import OUTPUTS, STACKS, cannot_write
from aetheria.snapshots.run_plan import RunPlan

_ASIDE = ".replaced"  # holds what --overwrite replaces until nothing can be refused any more


@contextlib.contextmanager
def undone_if_refused(plan: RunPlan) -> Iterator[Path]:
    """Makes the run folder, without what `plan.overwrite` replaces. If the block raises, removes
    what is new in the folder, and restores what was there.

    Yields:
        The run folder.

    Raises:
        SnapshotError: the disk does not take it.
    """
    folder = plan.run_dir
    aside = folder / _ASIDE
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if plan.overwrite:
            _move_aside(folder, aside)
        before = set(folder.iterdir())
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield folder
    except BaseException:
        for path in set(folder.iterdir()) - before:
            _remove(path)
        if aside.exists():
            for path in aside.iterdir():
                _remove(folder / path.name)
                path.rename(folder / path.name)
            aside.rmdir()
        for path in made:
            with contextlib.suppress(OSError):  # another process has written there meanwhile
                path.rmdir()
        raise
    if plan.overwrite:
        _remove(aside)


def _move_aside(folder: Path, aside: Path) -> None:
    if aside.exists():  # left by a start that was killed
        _remove(aside)
    aside.mkdir()
    for path in folder.iterdir():
        if path.name in OUTPUTS or path.match(STACKS):
            path.rename(aside / path.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
