"""Whether a disk has room for the snapshots of a run, asked before it starts."""

import os
import shutil
from pathlib import Path

from aetheria.errors import SnapshotError
from aetheria.resilience.retention import Retention
from aetheria.sizes import size_text


def check_room(run_dir: Path, snapshot_bytes: int, retention: Retention) -> list[str]:
    """Compares what the snapshots kept will take with what is free.

    Args:
        run_dir: where they go; need not be there yet.
        snapshot_bytes: of one.
        retention: how many stay. One more is written before one goes.

    Returns:
        A line to tell where they may not all fit.

    Raises:
        SnapshotError: the disk has no room for a single one, or the folder cannot be written to.
    """
    place = next(p for p in (run_dir.absolute(), *run_dir.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise SnapshotError(
            f"--workdir: expected a folder that can be written to, got {run_dir}; name another"
        )
    free, one = shutil.disk_usage(place).free, size_text(snapshot_bytes)
    if snapshot_bytes > free:
        raise SnapshotError(
            f"--workdir: expected room for a snapshot of {one} in {run_dir}, got "
            f"{size_text(free)}; free some, or name another folder"
        )
    count = retention.keep_last + retention.keep_best + 1
    if snapshot_bytes * count > free:
        return [
            f"disk: up to {count} snapshots of {one} want {size_text(snapshot_bytes * count)} in "
            f"{run_dir}, where {size_text(free)} are free; "
            "those that find no room will be reported, and the run goes on"
        ]
    return []
