"""A snapshot on disk: an Orbax composite, written whole and verified when read.

Three items: `state` (every leaf of the run's state), `record` (counters, listeners, config,
versions) and `manifest` (digests). Orbax renames the folder into place when all are complete.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.errors import SnapshotError
from aetheria.protocols import Snapshot
from aetheria.resilience.manifest import check_manifest, make_manifest

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not completed


def write_snapshot(
    checkpointer: Any, path: Path, arrays: Mapping[str, Any], record: Mapping[str, Any]
) -> int:
    """Writes arrays and record with their digests, the whole folder at once; returns the bytes."""
    import orbax.checkpoint as ocp

    host = {name: np.asarray(array) for name, array in arrays.items()}
    with _one_report():
        checkpointer.save(
            path.resolve(),
            ocp.args.Composite(
                state=ocp.args.PyTreeSave(_nest(host)),
                record=ocp.args.JsonSave(record),
                manifest=ocp.args.JsonSave(make_manifest(host, record)),
            ),
        )
    return sum(array.nbytes for array in host.values())


def read_snapshot(path: Path) -> Snapshot:
    """Reads a snapshot into host memory and verifies every leaf.

    Raises:
        SnapshotError: the snapshot is unreadable or damaged; the leaf is named.
    """
    import orbax.checkpoint as ocp

    try:
        _check_inside(path)
        with _one_report(), make_checkpointer(ocp) as checkpointer:
            texts = checkpointer.restore(
                path.resolve(),
                ocp.args.Composite(record=ocp.args.JsonRestore(), manifest=ocp.args.JsonRestore()),
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


def make_checkpointer(ocp: Any) -> Any:
    """A checkpointer for this process alone. Orbax's default waits for all processes of a run, but
    one of them writes, and each reads when it likes.
    """
    index = ocp.multihost.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    json_handler = lambda: ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
        record=json_handler(),
        manifest=json_handler(),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


class _LateFilter:
    """Drops one message that tensorstore causes; passes on everything else.

    When Orbax gives up on a damaged snapshot, or on a full disk, reads and writes of other leaves
    are still under way. Each of them, when it ends, reports to an event loop that is closed by
    then, and Python prints a traceback for it. Seen with orbax-checkpoint 0.12.8 and tensorstore
    0.1.86; delete this when a damaged snapshot no longer prints more than our own line.
    """

    def __init__(self, previous: Callable[[Any], Any]):
        self.previous = previous

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.previous(unraisable)


def _told_by_others(record: logging.LogRecord) -> bool:
    """Whether a message is any but those of a failed save's parts: the save itself raises one."""
    if record.name == "asyncio":
        return "never retrieved" not in record.getMessage() or UNFINISHED not in record.getMessage()
    return "_SignalingThread.run() raised" not in str(record.msg)


@contextmanager
def _one_report() -> Iterator[None]:
    """While Orbax works: what fails is raised, and said nowhere else.

    The filter of late messages stays after a failure, since they come at any time.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_told_by_others)
    hook = sys.unraisablehook
    if not isinstance(hook, _LateFilter):
        hook = sys.unraisablehook = _LateFilter(hook)
    yield
    if sys.unraisablehook is hook:
        sys.unraisablehook = hook.previous


def _as_numpy(ocp: Any, manifest: Mapping[str, Any]) -> Any:
    """Asks for every leaf as a NumPy array: independent of the devices that wrote it."""
    as_array = ocp.RestoreArgs(restore_type=np.ndarray)
    paths = manifest["leaves"]
    return ocp.args.PyTreeRestore(
        _nest(dict.fromkeys(paths, 0)), restore_args=_nest(dict.fromkeys(paths, as_array))
    )


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turns leaf paths into a tree that a reader of the snapshot can walk."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


def _flatten(tree: Mapping[str, Any], paths: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `_nest`, in the manifest's order, which is the tree order of the state."""
    flat = {}
    for path in paths:
        node: Any = tree
        for name in path.split("/"):
            node = node[name]
        flat[path] = np.asarray(node)
    return flat


def one_line(error: Exception) -> str:
    """An error's kind and the first line of what it says: Orbax says hundreds."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
