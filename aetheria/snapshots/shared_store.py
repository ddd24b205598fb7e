"""Runs with several processes: what process 0 does for all, and what all must know of it."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aetheria.engine.interfaces import Peers, Snapshot, SnapshotManager
from aetheria.errors import SnapshotError
from aetheria.events import SnapshotFailed, SnapshotSaved
from aetheria.snapshots.runs import RunPlan
from aetheria.snapshots.snapshot_files import read_snapshot


class SharedStore:
    """Process 0 writes; whether a save is still under way is what it says, on every process.

    Args:
        peers: the processes.
        store: process 0's; None elsewhere.
    """

    def __init__(self, peers: Peers, store: SnapshotManager | None):
        self._peers, self._store = peers, store

    def busy(self) -> bool:
        """Whether a save is still under way; called by all processes alike."""
        return self._peers.broadcast(self._store is not None and self._store.busy())

    def save(self, name: str, arrays: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Starts a save on process 0."""
        if self._store is not None:
            self._store.save(name, arrays, record)

    def finished(self, *, wait: bool = False) -> list[SnapshotSaved | SnapshotFailed]:
        """What has ended; nothing but on process 0."""
        return [] if self._store is None else self._store.finished(wait=wait)

    def read_newest(self) -> Snapshot | None:
        """The newest that proves sound, if every process can read it, else None."""
        mine = None if self._store is None else self._store.read_newest()
        path = self._peers.broadcast(mine and str(mine.path))
        if path is None:
            return None
        if self._store is None:
            with contextlib.suppress(SnapshotError):
                mine = read_snapshot(Path(path))
        everywhere = all(self._peers.all_gather(mine is not None))
        return mine if everywhere else None


def share_plan(peers: Peers, plan: RunPlan | None) -> RunPlan:
    """Process 0's plan, on every process: the others read the same snapshot, and verify it too.

    Raises:
        SnapshotError: the snapshot cannot be read here, though process 0 could.
    """
    message = None
    if plan is not None:
        snapshot = plan.snapshot and str(plan.snapshot.path)
        message = [str(plan.run_dir), snapshot, plan.parent and str(plan.parent)]
    run_dir, snapshot, parent = peers.broadcast(message)
    if plan is not None:
        return plan
    return RunPlan(
        run_dir=Path(run_dir),
        snapshot=read_snapshot(Path(snapshot)) if snapshot else None,
        parent=Path(parent) if parent else None,
    )
