"""Runs with several processes: what process 0 does for all, and what all must know of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aetheria.events import SnapshotFailed, SnapshotSaved
from aetheria.protocols import Peers, SnapshotWriter
from aetheria.resilience.runs import RunPlan
from aetheria.resilience.store import read_snapshot


class SharedWriter:
    """Process 0 writes; whether a save is still under way is what it says, on every process.

    Args:
        peers: the processes.
        writer: process 0's; None elsewhere.
    """

    def __init__(self, peers: Peers, writer: SnapshotWriter | None):
        self._peers, self._writer = peers, writer

    def busy(self) -> bool:
        """Whether a save is still under way; called by all processes alike."""
        return self._peers.share(self._writer is not None and self._writer.busy())

    def save(self, name: str, arrays: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Starts a save on process 0."""
        if self._writer is not None:
            self._writer.save(name, arrays, record)

    def finished(self, *, wait: bool = False) -> list[SnapshotSaved | SnapshotFailed]:
        """What has ended; nothing but on process 0."""
        return [] if self._writer is None else self._writer.finished(wait=wait)


def share_plan(peers: Peers, plan: RunPlan | None) -> RunPlan:
    """Process 0's plan, on every process: the others read the same snapshot, and verify it too.

    Raises:
        SnapshotError: the snapshot cannot be read here, though process 0 could.
    """
    message = None
    if plan is not None:
        snapshot = plan.snapshot and str(plan.snapshot.path)
        message = [str(plan.run_dir), snapshot, plan.parent and str(plan.parent)]
    run_dir, snapshot, parent = peers.share(message)
    if plan is not None:
        return plan
    return RunPlan(
        run_dir=Path(run_dir),
        snapshot=read_snapshot(Path(snapshot)) if snapshot else None,
        parent=Path(parent) if parent else None,
    )
