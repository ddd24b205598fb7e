"""Snapshots on disk: Orbax composites, written in the background, verified when read.

A snapshot is a folder `snapshot_ep5` or `snapshot_step120` with three items: `state` (every leaf of
the run's state), `record` (counters, listeners, config, versions) and `manifest` (digests). Orbax
renames the folder into place when all three are complete.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.errors import SnapshotError
from aetheria.events import SnapshotFailed, SnapshotSaved
from aetheria.protocols import Snapshot
from aetheria.resilience.manifest import check_manifest, make_manifest
from aetheria.resilience.retention import Retention, SnapshotInfo

ITEMS = ("state", "record", "manifest")
_UNFINISHED = ".orbax-checkpoint-tmp"


class SnapshotStore:
    """Writes the snapshots of one run, one at a time, in a thread of its own.

    Args:
        folder: the run's `checkpoints/`; made at the first save.
        retention: which snapshots to keep.
        extra: what every record holds besides the engine's part (config, versions, lineage).
    """

    def __init__(self, folder: Path, retention: Retention, extra: Mapping[str, Any]):
        # Here and not at the first save: a tenth of a second that the loop would wait for.
        import orbax.checkpoint as ocp

        self._checkpointer = _checkpointer(ocp)
        self._folder, self._retention, self._extra = folder, retention, dict(extra)
        self._kept = list_snapshots(folder)
        self._thread: threading.Thread | None = None
        self._events: list[SnapshotSaved | SnapshotFailed] = []

    def busy(self) -> bool:
        """Whether a save is still under way."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, name: str, arrays: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Starts writing; returns at once.

        Args:
            name: the folder's name.
            arrays: leaf path -> array; ours alone, so they may be read later, in the thread.
            record: JSON values, read now.
        """
        assert not self.busy(), "one save at a time"
        record = json.loads(json.dumps({**record, **self._extra}))
        self._thread = threading.Thread(
            target=self._write, args=(name, arrays, record), name="aetheria-snapshot"
        )
        self._thread.start()

    def finished(self, *, wait: bool = False) -> list[SnapshotSaved | SnapshotFailed]:
        """What has ended since the last call."""
        if self._thread is not None and wait:
            self._thread.join()
        if self.busy():
            return []
        events, self._events = self._events, []
        return events

    def best(self) -> dict[str, Any] | None:
        """The best snapshot kept: its name, step, and the monitored value."""
        best = self._retention.best(self._kept)
        if not best:
            return None
        monitor = self._retention.monitor
        return {
            "snapshot": best[0].path.name,
            "step": best[0].step,
            "monitor": monitor,
            "value": best[0].metrics[monitor],
            "metrics": {k: v for k, v in best[0].metrics.items() if k.startswith("eval/")},
        }

    def _write(self, name: str, arrays: Mapping[str, Any], record: dict[str, Any]) -> None:
        began, step = time.perf_counter(), record["progress"]["step"]
        try:
            host = {path: np.asarray(array) for path, array in arrays.items()}
            manifest = make_manifest(host, record)
            self._commit(self._folder / name, host, record, manifest)
        except Exception as error:  # reported as an event; the run goes on
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._events.append(SnapshotFailed(name=name, step=step, reason=reason))
            return
        size = sum(array.nbytes for array in host.values())
        seconds = time.perf_counter() - began
        self._events.append(SnapshotSaved(name=name, step=step, size_bytes=size, seconds=seconds))
        self._retire(SnapshotInfo.of(self._folder / name, record))

    def _commit(
        self, path: Path, arrays: Mapping[str, np.ndarray], record: Any, manifest: Any
    ) -> None:
        import orbax.checkpoint as ocp

        self._clean()
        self._checkpointer.save(
            path.resolve(),
            ocp.args.Composite(
                state=ocp.args.PyTreeSave(_nest(arrays)),
                record=ocp.args.JsonSave(record),
                manifest=ocp.args.JsonSave(manifest),
            ),
        )

    def _clean(self) -> None:
        """Removes what a killed or failed save left behind; nothing else ever does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"*{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _retire(self, newest: SnapshotInfo) -> None:
        self._kept = [info for info in self._kept if info.path != newest.path] + [newest]
        for info in self._retention.expired(self._kept):
            shutil.rmtree(info.path, ignore_errors=True)
            self._kept.remove(info)


def list_snapshots(folder: Path) -> list[SnapshotInfo]:
    """The complete snapshots in a `checkpoints/` folder, oldest step first; unverified.

    One whose record cannot be read counts as the newest, so that it is tried and found to be
    damaged rather than overlooked.
    """
    paths = [path for path in folder.glob("snapshot_*") if _UNFINISHED not in path.name]
    infos = [snapshot_info(path) for path in paths if path.is_dir()]
    return sorted(infos, key=lambda info: (info.step, info.path.name))


def snapshot_info(path: Path) -> SnapshotInfo:
    """What the record of a snapshot says; the arrays are not read, nothing is verified."""
    try:
        record = json.loads((path / "record" / "metadata").read_text(encoding="utf-8"))
        return SnapshotInfo.of(path, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return SnapshotInfo(path, step=sys.maxsize, metrics={})


def read_snapshot(path: Path) -> Snapshot:
    """Reads a snapshot into host memory and verifies every leaf.

    Raises:
        SnapshotError: the snapshot is unreadable or damaged; the leaf is named.
    """
    import orbax.checkpoint as ocp

    hook = _ignore_late_reads()
    try:
        with _checkpointer(ocp) as checkpointer:
            texts = checkpointer.restore(
                path.resolve(),
                ocp.args.Composite(record=ocp.args.JsonRestore(), manifest=ocp.args.JsonRestore()),
            )
            nested = checkpointer.restore(
                path.resolve(), ocp.args.Composite(state=_as_numpy(ocp, texts.manifest))
            )
        arrays = _flatten(nested.state, texts.manifest["leaves"])
        check_manifest(texts.manifest, arrays, texts.record)
    except Exception as error:  # a damaged file may surface as any error of any library
        reason = str(error) if isinstance(error, SnapshotError) else _first_line(error)
        raise SnapshotError(
            f"{path}: expected an undamaged snapshot, got {reason}; resume from another one"
        ) from error
    if sys.unraisablehook is hook:
        sys.unraisablehook = hook.previous
    return Snapshot(path, arrays, texts.record)


def _checkpointer(ocp: Any) -> Any:
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


class _LateReadFilter:
    """Drops one message that tensorstore causes; passes on everything else.

    When Orbax gives up on a damaged snapshot, reads of other leaves are still under way. Each of
    them, when it ends, reports to an event loop that is closed by then, and Python prints a
    traceback for it. Seen with orbax-checkpoint 0.12.8 and tensorstore 0.1.86; delete this when a
    damaged snapshot no longer prints more than our own line.
    """

    def __init__(self, previous: Callable[[Any], Any]):
        self.previous = previous

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.previous(unraisable)


def _ignore_late_reads() -> _LateReadFilter:
    """Installs the filter; after a failed read it stays, since the reads end at any time."""
    current = sys.unraisablehook
    if not isinstance(current, _LateReadFilter):
        current = sys.unraisablehook = _LateReadFilter(current)
    return current


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


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return text[:200]
