"""The locks of a sweep: one on its folder, for a moment, and one on each trial that is under way.

Both are run locks, so that a process that was killed frees them, on whichever host it ran.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from aetheria.errors import SnapshotError
from aetheria.snapshots.run_lock import RunLock

_RETRY_SECONDS = 0.05


class SweepLock:
    """The lock on a sweep's folder, also for Optuna's journal. Its holder may acquire it again."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._depth = 0
        self._lock: RunLock | None = None

    def acquire(self) -> bool:
        """Waits until nobody else holds the folder."""
        while self._lock is None:
            lock = RunLock(self._folder)
            try:
                lock.acquire()
                self._lock = lock
            except SnapshotError:
                time.sleep(_RETRY_SECONDS)
        self._depth += 1
        return True

    def release(self) -> None:
        """Frees the folder, if it has been acquired once alone."""
        self._depth -= 1
        if self._depth == 0 and self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder inside the block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


def try_lock(folder: Path) -> RunLock | None:
    """Makes the folder of a trial and locks it; None: a living process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = RunLock(folder)
    try:
        lock.acquire()
    except SnapshotError:
        return None
    return lock
