"""A snapshot on disk: an Orbax checkpoint, written whole and verified when it is read.

Three items: `state` (every leaf of the run's state), `record` (see `aetheria.engine.record`) and
`manifest` (digests of both). Orbax renames the folder into place when all three are complete.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from aetheria.engine.interfaces import Snapshot
from aetheria.engine.record import NewerRecordError, SnapshotRecord
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import SnapshotError
from aetheria.model.nesting import nested_columns
from aetheria.snapshots.manifest import check_manifest, make_manifest, read_manifest
from aetheria.snapshots.quiet_orbax import quiet_orbax


def write_snapshot(path: Path, arrays: Mapping[str, ArrayLike], record: SnapshotRecord) -> int:
    """Writes arrays and record with their digests; returns the size of the arrays in bytes."""
    return write_checkpoint(path, arrays, record.to_json())


def read_snapshot(path: Path) -> Snapshot:
    """Reads a snapshot into host memory and verifies every leaf.

    Raises:
        NewerRecordError: a newer release wrote it.
        SnapshotError: the snapshot is unreadable or damaged; the leaf or field is named.
    """
    arrays, record = read_checkpoint(path)
    try:
        return Snapshot(path, arrays, SnapshotRecord.from_json(record))
    except NewerRecordError as error:
        raise NewerRecordError(f"{path}: {error}") from error
    except SnapshotError as error:
        raise damaged(path, error) from error


def write_checkpoint(path: Path, arrays: Mapping[str, ArrayLike], record: JsonObject) -> int:
    """Writes arrays with a record of any layout, the whole folder at once."""
    # Imported by the first save, in its thread: earlier, its 30 MiB would add to the memory that
    # the compilers take, which is the most that a small run has.
    from aetheria.snapshots.orbax_items import save_items

    host = {name: np.asarray(array) for name, array in arrays.items()}
    # Orbax refuses arrays of size 0. The manifest says everything about these.
    filled = {name: array for name, array in host.items() if array.size}
    with quiet_orbax():
        save_items(
            path.resolve(), nested_columns(filled), record, lambda: make_manifest(host, record)
        )
    return sum(array.nbytes for array in host.values())


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], JsonObject]:
    """Reads and verifies arrays and a record of any layout.

    Raises:
        SnapshotError: the folder is unreadable or damaged; the leaf is named.
    """
    from aetheria.snapshots.orbax_items import restore_state, restore_texts

    try:
        _check_inside(path)
        with quiet_orbax():
            record, text = restore_texts(path.resolve())
            manifest = read_manifest(text)
            stored = {name for name, leaf in manifest.leaves.items() if 0 not in leaf.shape}
            state = restore_state(path.resolve(), nested_columns(dict.fromkeys(stored)))
        arrays = {
            name: _leaf(state, name) if name in stored else np.zeros(leaf.shape, leaf.dtype)
            for name, leaf in manifest.leaves.items()  # the order of the state's tree
        }
        check_manifest(manifest, arrays, record)
    except Exception as error:  # a damaged file may surface as any error of any library
        raise damaged(path, error) from error
    return arrays, record


def damaged(path: Path, error: Exception) -> SnapshotError:
    """The error for a snapshot that cannot be used, with the reason."""
    reason = str(error) if isinstance(error, SnapshotError) else one_line(error)[:200]
    return SnapshotError(
        f"{path}: expected an undamaged snapshot, got {reason}; resume from another one"
    )


def one_line(error: Exception) -> str:
    """The kind of an error and the first line of its message: Orbax writes hundreds of lines."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _check_inside(path: Path) -> None:
    """Raises SnapshotError if a link in the snapshot leads out of it."""
    for item in path.rglob("*"):
        if item.is_symlink() and not item.resolve().is_relative_to(path.resolve()):
            raise SnapshotError(f"{item.relative_to(path)}, a link out of it to {item.resolve()}")


def _leaf(state: Mapping[str, object], path: str) -> np.ndarray:
    node: object = state
    for name in path.split("/"):
        if not isinstance(node, Mapping):
            raise SnapshotError(f"leaf {path!r}: expected in the state, got none")
        node = node[name]
    return np.asarray(node)
