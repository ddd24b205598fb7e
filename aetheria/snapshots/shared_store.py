"""Runs with several processes: what process 0 does for all, and what all of them must agree on."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from numpy.typing import ArrayLike

from aetheria.engine.interfaces import Peers, Snapshot, SnapshotManager
from aetheria.engine.record import SnapshotRecord
from aetheria.errors import SnapshotError
from aetheria.events import SnapshotFailed, SnapshotSaved
from aetheria.snapshots.run_plan import RunPlan
from aetheria.snapshots.snapshot_files import read_snapshot


class SharedStore:
    """Process 0 writes the snapshots; every process learns from it whether a save is under way.

    Args:
        peers: the processes.
        store: process 0's; None elsewhere.
    """

    def __init__(self, peers: Peers, store: SnapshotManager | None):
        self._peers, self._store = peers, store

    def busy(self) -> bool:
        """Whether a save is still under way; all processes call it together."""
        return self._peers.broadcast(self._store is not None and self._store.busy())

    def save(self, name: str, arrays: Mapping[str, ArrayLike], record: SnapshotRecord) -> None:
        """Starts a save on process 0."""
        if self._store is not None:
            self._store.save(name, arrays, record)

    def finished(self, *, wait: bool = False) -> list[SnapshotSaved | SnapshotFailed]:
        """The saves that have ended since the last call; empty except on process 0."""
        return [] if self._store is None else self._store.finished(wait=wait)

    def read_newest(self, up_to_step: int | None = None) -> Snapshot | None:
        """The newest undamaged snapshot, if every process can read it, else None."""
        mine = None if self._store is None else self._store.read_newest(up_to_step)
        path = self._peers.broadcast(mine and str(mine.path))
        if path is None:
            return None
        if self._store is None:
            with contextlib.suppress(SnapshotError):
                mine = read_snapshot(Path(path))
        everywhere = all(self._peers.all_gather(mine is not None))
        return mine if everywhere else None


def share_plan(peers: Peers, plan: RunPlan | None) -> RunPlan:
    """Broadcasts process 0's plan: the other processes read and verify the same snapshot.

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
