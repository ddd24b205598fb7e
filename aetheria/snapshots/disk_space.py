"""Whether a disk has room for the snapshots of a run, checked before it starts."""

import os
import shutil
from pathlib import Path

from aetheria.errors import SnapshotError
from aetheria.snapshots.retention import Retention
from aetheria.snapshots.run_folder import CHECKPOINTS
from aetheria.snapshots.sizes import folder_bytes, size_text
from aetheria.snapshots.store import list_snapshots


def check_disk_space(
    run_dir: Path, snapshot_bytes: int, retention: Retention, *, overwrite: bool = False
) -> list[str]:
    """Compares the free space with what the snapshots that are still to be written will take.

    Args:
        run_dir: where they are written; need not exist yet.
        snapshot_bytes: the size of one.
        retention: how many are kept. One more is written before one is removed.
        overwrite: the existing snapshots are removed first.

    Returns:
        A warning line if they may not all fit.

    Raises:
        SnapshotError: the disk has no room for a single one, or the folder cannot be written to.
    """
    place = next(p for p in (run_dir.absolute(), *run_dir.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise SnapshotError(
            f"--workdir: expected a folder that can be written to, got {run_dir}; name another"
        )
    free, one = shutil.disk_usage(place).free, size_text(snapshot_bytes)
    num_kept = len(list_snapshots(run_dir / CHECKPOINTS))
    if overwrite:
        free, num_kept = free + folder_bytes(run_dir / CHECKPOINTS), 0
    if snapshot_bytes > free:
        raise SnapshotError(
            f"--workdir: expected room for a snapshot of {one} in {run_dir}, got "
            f"{size_text(free)}; free some, or name another folder"
        )
    count = max(1, retention.keep_last + retention.keep_best + 1 - num_kept)
    if snapshot_bytes * count > free:
        return [
            f"disk: up to {count} more snapshots of {one} need "
            f"{size_text(snapshot_bytes * count)} in {run_dir}, where {size_text(free)} are free; "
            "the run reports each save that finds no room, and goes on"
        ]
    return []
