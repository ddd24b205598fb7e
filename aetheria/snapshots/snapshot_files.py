"""A snapshot on disk: an Orbax composite, written whole and verified when read.

Three items: `state` (every leaf of the run's state), `record` (counters, listeners, config,
versions) and `manifest` (digests). Orbax renames the folder into place when all are complete.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.engine.interfaces import Snapshot
from aetheria.errors import SnapshotError
from aetheria.model.nesting import nested_columns
from aetheria.snapshots.manifest import check_manifest, make_manifest
from aetheria.snapshots.quiet_orbax import quiet_orbax


def write_snapshot(path: Path, arrays: Mapping[str, Any], record: Mapping[str, Any]) -> int:
    """Writes arrays and record with their digests, the whole folder at once; returns the bytes."""
    import orbax.checkpoint as ocp

    from aetheria.snapshots.orbax_items import ManifestSave, make_checkpointer

    host = {name: np.asarray(array) for name, array in arrays.items()}
    with quiet_orbax(), make_checkpointer() as checkpointer:
        checkpointer.save(
            path.resolve(),
            ocp.args.Composite(
                state=ocp.args.PyTreeSave(nested_columns(_stored(host))),
                record=ocp.args.JsonSave(record),
                manifest=ManifestSave(lambda: make_manifest(host, record)),
            ),
        )
    return sum(array.nbytes for array in host.values())


def read_snapshot(path: Path) -> Snapshot:
    """Reads a snapshot into host memory and verifies every leaf.

    Raises:
        SnapshotError: the snapshot is unreadable or damaged; the leaf is named.
    """
    import orbax.checkpoint as ocp

    from aetheria.snapshots.orbax_items import ManifestRestore, make_checkpointer

    try:
        _check_inside(path)
        with quiet_orbax(), make_checkpointer() as checkpointer:
            texts = checkpointer.restore(
                path.resolve(),
                ocp.args.Composite(record=ocp.args.JsonRestore(), manifest=ManifestRestore()),
            )
            _check_names(texts.manifest["leaves"])
            nested = checkpointer.restore(
                path.resolve(), ocp.args.Composite(state=_as_numpy(ocp, texts.manifest))
            )
        arrays = _flatten(nested.state, texts.manifest["leaves"])
        check_manifest(texts.manifest, arrays, texts.record)
    except Exception as error:  # a damaged file may surface as any error of any library
        reason = str(error) if isinstance(error, SnapshotError) else one_line(error)[:200]
        raise SnapshotError(
            f"{path}: expected an undamaged snapshot, got {reason}; resume from another one"
        ) from error
    return Snapshot(path, arrays, texts.record)


def _check_inside(path: Path) -> None:
    """Raises SnapshotError if something in a snapshot stands for something elsewhere."""
    for item in path.rglob("*"):
        if item.is_symlink() and not item.resolve().is_relative_to(path.resolve()):
            raise SnapshotError(f"{item.relative_to(path)}, a link out of it to {item.resolve()}")


def _check_names(leaves: Mapping[str, Any]) -> None:
    """Raises SnapshotError for a leaf whose name could be taken for a place elsewhere."""
    for leaf in leaves:
        if any(part in ("", ".", "..") or "\\" in part for part in leaf.split("/")):
            raise SnapshotError(f"a leaf {leaf!r}, whose name leaves the snapshot")


def _stored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those with a value in them: Orbax refuses size 0, of which the manifest says everything."""
    return {path: array for path, array in arrays.items() if array.size}


def _as_numpy(ocp: Any, manifest: Mapping[str, Any]) -> Any:
    """Asks for every leaf as a NumPy array: independent of the devices that wrote it."""
    as_array = ocp.RestoreArgs(restore_type=np.ndarray)
    paths = [path for path, leaf in manifest["leaves"].items() if 0 not in leaf["shape"]]
    return ocp.args.PyTreeRestore(
        nested_columns(dict.fromkeys(paths, 0)),
        restore_args=nested_columns(dict.fromkeys(paths, as_array)),
    )


def _flatten(tree: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `nested_columns`, in the manifest's order: the tree order of the state."""
    flat = {}
    for path, leaf in leaves.items():
        if 0 in leaf["shape"]:
            flat[path] = np.zeros(leaf["shape"], np.dtype(leaf["dtype"]))
            continue
        node: Any = tree
        for name in path.split("/"):
            node = node[name]
        flat[path] = np.asarray(node)
    return flat


def one_line(error: Exception) -> str:
    """An error's kind and the first line of what it says: Orbax says hundreds."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
