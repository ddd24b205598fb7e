"""Dumps of non-finite windows: what `aetheria debug nan` replays.

A dump is written as a snapshot is, digests included, and holds the state the window met, the window
itself, and a record of where in which run that was. The optimizer's part of the state is left out
where loss or gradient were not finite.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.engine.interfaces import UPDATE_OR_STATE, DataFeed, Snapshot
from aetheria.errors import SnapshotError
from aetheria.snapshots.snapshot_files import one_line, read_snapshot, write_snapshot

KIND = "nonfinite"
_GLOBAL_BATCH = "window"
_LEFT_OUT = "opt_state"  # most of the bytes, and no part of a loss or a gradient
_MOST = 3  # a run's: what goes wrong first tells most


class NonFiniteDumps:
    """Writes the first few dumps of a run.

    Args:
        folder: the run's `dumps/`; made when it is needed.
        feed: serves whole windows, whatever part of them this process trains on.
        extra: what every record holds besides (config, versions).
        writes: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, feed: DataFeed, extra: Mapping[str, Any], *, writes: bool):
        self._folder, self._feed, self._extra, self._writes = folder, feed, dict(extra), writes
        self._num_asked = 0

    def has_budget(self) -> bool:
        """Whether another dump would be kept; the same on every process."""
        return self._num_asked < _MOST

    def write(
        self, step: int, examples_seen: int, arrays: Mapping[str, Any], what: str
    ) -> str | None:
        """Writes a dump; one that fails costs a line on stderr, and not the run."""
        self._num_asked += 1
        if not self._writes:
            return None
        path = self._folder / f"{KIND}_step{step}"
        try:
            self._write(path, step, examples_seen, arrays, what)
        except Exception as error:  # of whatever library: the run is what matters
            print(f"{path} could not be written: {one_line(error)}; going on", file=sys.stderr)
            return None
        return str(path)

    def _write(
        self, path: Path, step: int, examples_seen: int, arrays: Mapping[str, Any], what: str
    ) -> None:
        whole = what == UPDATE_OR_STATE
        kept = {n: a for n, a in arrays.items() if whole or n.split("/")[0] != _LEFT_OUT}
        global_batch = self._global_batch(examples_seen)
        record = {
            "kind": KIND,
            "step": step,
            "what": what,
            "examples_seen": examples_seen,
            "indices": list(self._feed.train_indices(examples_seen)),
            **self._extra,
        }
        shutil.rmtree(path, ignore_errors=True)  # of an earlier start of this run
        self._folder.mkdir(parents=True, exist_ok=True)
        columns = {f"{_GLOBAL_BATCH}/{name}": column for name, column in global_batch.items()}
        write_snapshot(path, {**kept, **columns}, record)

    def _global_batch(self, examples_seen: int) -> dict[str, np.ndarray]:
        """Reads the window again: data is a function of its position."""
        chunks = self._feed.train_chunks(examples_seen, 1)
        arrays = next(chunks).arrays
        chunks.close()
        return {name: np.asarray(column[0]) for name, column in arrays.items()}


def read_dump(path: Path) -> tuple[Snapshot, dict[str, np.ndarray]]:
    """Reads and verifies a dump: the snapshot without the window's columns, and these.

    Raises:
        SnapshotError: there is none, it is damaged, or it is a snapshot of another kind.
    """
    if not (path / "manifest").is_dir():
        raise SnapshotError(
            f"dump: expected a folder that a non-finite window left in a run's dumps/, got {path}; "
            "name one of these"
        )
    snapshot = read_snapshot(path)
    if snapshot.record.get("kind") != KIND:
        raise SnapshotError(
            f"dump: expected a dump of a non-finite window, got {path}, a snapshot; name a folder "
            "in the run's dumps/"
        )
    prefix = f"{_GLOBAL_BATCH}/"
    global_batch = {
        name.removeprefix(prefix): array
        for name, array in snapshot.arrays.items()
        if name.startswith(prefix)
    }
    arrays = {name: a for name, a in snapshot.arrays.items() if not name.startswith(prefix)}
    return snapshot._replace(arrays=arrays), global_batch


def newest_dump(run_dir: Path) -> str | None:
    """The newest dump of a run; None if it has none."""
    prefix = f"{KIND}_step"
    steps = {
        int(path.name.removeprefix(prefix)): str(path)
        for path in (run_dir / "dumps").glob(f"{prefix}*")
        if path.name.removeprefix(prefix).isdecimal()
    }
    return steps[max(steps)] if steps else None
