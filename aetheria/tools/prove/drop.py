"""A snapshot without one of its fields: the negative control of `prove resume`."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from aetheria.engine.interfaces import Snapshot
from aetheria.errors import AetheriaError
from aetheria.snapshots.run_folder import CHECKPOINTS
from aetheria.snapshots.snapshot_files import write_snapshot
from aetheria.snapshots.store import find_newest

_ARRAYS = {
    "params": "params",
    "model_state": "model_state",
    "opt_state": "opt_state",
    "rng": "base_key",
    "counters": "counters",
    "loss_scale": "loss_scale",
}
_PROGRESS = {"cursor": "examples_seen", "step": "step"}
FIELDS = (*_ARRAYS, *_PROGRESS, "listeners")


def drop_field(run_dir: Path, field: str) -> None:
    """Rewrites the newest snapshot of a run with one field as if it had not been saved: numbers
    become zero, a random key another key, and listeners lose their state. Its digests are valid.

    Raises:
        AetheriaError: there is no snapshot, or this field of it is empty.
    """
    snapshot, _ = find_newest(run_dir / CHECKPOINTS)
    if snapshot is None:
        raise AetheriaError(
            "--drop: expected a snapshot before the first kill, got none; kill at a later step"
        )
    without = _without(snapshot, field)
    if without is None:
        raise AetheriaError(
            f"--drop: expected a field that this run's snapshots have, got {field!r}, which is "
            "empty; drop another"
        )
    shutil.rmtree(snapshot.path)
    write_snapshot(snapshot.path, without.arrays, without.record)


def _without(snapshot: Snapshot, field: str) -> Snapshot | None:
    """The snapshot without a field; None if nothing changes."""
    record = snapshot.record
    if field in _ARRAYS:
        arrays = {
            path: _blank(array) if path.split("/")[0] == _ARRAYS[field] else array
            for path, array in snapshot.arrays.items()
        }
        same = all(np.array_equal(arrays[path], snapshot.arrays[path]) for path in arrays)
        return None if same else snapshot._replace(arrays=arrays)
    if field in _PROGRESS:
        record = replace(record, progress=replace(record.progress, **{_PROGRESS[field]: 0}))
    else:
        record = replace(record, listeners={})
    return None if record == snapshot.record else snapshot._replace(record=record)


def _blank(array: np.ndarray) -> np.ndarray:
    # A key of zeros is the key of seed 0, which may be the right one.
    return ~array if array.dtype == np.uint32 else np.zeros_like(array)
