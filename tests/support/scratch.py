"""The folders of the tests in memory, where the machine has a disk of it: a run flushes some sixty
files of its snapshots to the disk, one after the other, and waits longer for them than it trains.
"""

import os
import shutil
from pathlib import Path

ROOT = "PYTEST_DEBUG_TEMPROOT"  # pytest's variable: under it are the folders of its tests
_IN_MEMORY = Path("/dev/shm")
_ENOUGH = 4 * 1024**3  # bytes; more than a run of all tests takes


def use_memory() -> None:
    """Chooses memory, unless the user chose a place (PYTEST_DEBUG_TEMPROOT) or there is no room."""
    has_room = _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free >= _ENOUGH
    if has_room and ROOT not in os.environ:
        os.environ[ROOT] = str(_IN_MEMORY)


def scratch_root() -> str | None:
    """The folder for what a test makes by `tempfile`; None: the system's."""
    return os.environ.get(ROOT)
