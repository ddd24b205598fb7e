"""Resilience: a snapshot is a verified checkpoint. Snapshots are written, verified, retained and
found here, and so are the run folders that hold them.
"""

from aetheria.snapshots.snapshot_files import read_snapshot as read_snapshot
from aetheria.snapshots.store import SnapshotStore as SnapshotStore
