"""Resilience: a snapshot is a verified checkpoint. Writing, verifying, retaining and finding them,
and the run folders that hold them.
"""

from aetheria.snapshots.snapshot_files import read_snapshot as read_snapshot
from aetheria.snapshots.store import SnapshotStore as SnapshotStore
