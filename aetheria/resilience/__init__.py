"""Resilience: what is written so that nothing is lost, and how it is found and trusted again."""

from aetheria.resilience.store import SnapshotStore as SnapshotStore
from aetheria.resilience.store import read_snapshot as read_snapshot
