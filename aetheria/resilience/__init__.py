"""Resilience: what is written so that nothing is lost, and how it is found and trusted again."""

from aetheria.resilience.snapshot_files import read_snapshot as read_snapshot
from aetheria.resilience.store import SnapshotStore as SnapshotStore
