"""The snapshots of one run: written in the background, kept or retired, the newest read back.

Each is a folder `snapshot_ep5` or `snapshot_step120`; see `aetheria.snapshots.snapshot_files`.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aetheria.engine.interfaces import Snapshot
from aetheria.errors import SnapshotError
from aetheria.events import SnapshotFailed, SnapshotSaved
from aetheria.snapshots.quiet_orbax import UNFINISHED
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.snapshot_files import one_line, read_snapshot, write_snapshot

QUARANTINE = "quarantine"
UNKNOWN_STEP = sys.maxsize  # of a snapshot whose record cannot be read: it counts as the newest


class SnapshotStore:
    """Writes the snapshots of one run, one at a time, in a thread of its own.

    Attributes:
        failures: the saves that did not succeed, JSON values.

    Args:
        folder: the run's `checkpoints/`; made at the first save.
        retention: which snapshots to keep.
        extra: what every record holds besides the engine's part (config, versions, lineage).
    """

    def __init__(self, folder: Path, retention: Retention, extra: Mapping[str, Any]):
        # Here and not at the first save: a tenth of a second that the loop would wait for.
        import aetheria.snapshots.orbax_items  # noqa: F401

        self._folder, self._retention, self._extra = folder, retention, dict(extra)
        self._kept = list_snapshots(folder)
        self._thread: threading.Thread | None = None
        self._events: list[SnapshotSaved | SnapshotFailed] = []
        self.failures: list[dict[str, Any]] = []
        self._written: set[Path] = set()
        self._num_tried = 0

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
        self._num_tried += 1
        record = json.loads(json.dumps({**record, **self._extra}))
        self._thread = threading.Thread(
            target=self._write, args=(name, [arrays], record), name="aetheria-snapshot"
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

    def read_newest(self) -> Snapshot | None:
        """The newest snapshot that proves sound; damaged ones are moved to quarantine."""
        assert not self.busy(), "a save is under way"
        newest, damaged = find_newest(self._folder)
        for path, _ in damaged:
            quarantine(path)
        self._kept = [kept for kept in self._kept if kept.path not in dict(damaged)]
        return newest

    def best(self) -> dict[str, Any] | None:
        """The best snapshot kept: its name, step, and the monitored value."""
        best = self._retention.best([kept for kept in self._kept if kept.path.is_dir()])
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

    def has_saved_nothing(self) -> bool:
        """Whether this process tried to save, and no snapshot that it wrote is there."""
        return self._num_tried > 0 and not any(path.is_dir() for path in self._written)

    def _write(self, name: str, box: list[Mapping[str, Any]], record: dict[str, Any]) -> None:
        """The arrays come in a box, so that nobody holds them any more when they are written."""
        started_at, step = time.perf_counter(), record["progress"]["step"]
        try:
            self._clean()
            size = write_snapshot(self._folder / name, box.pop(), record)
        except Exception as error:  # reported as an event; the run goes on
            self._failed(name, step, _reason(error))
            with contextlib.suppress(OSError):
                self._clean()  # frees what the disk may lack
            return
        seconds = time.perf_counter() - started_at
        self._events.append(SnapshotSaved(name=name, step=step, size_bytes=size, seconds=seconds))
        self._written.add(self._folder / name)
        self._retire(SnapshotInfo.of(self._folder / name, record))

    def _clean(self) -> None:
        """Removes what a killed or failed save left behind; nothing else ever does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"*{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _failed(self, name: str, step: int, reason: str) -> None:
        self._events.append(SnapshotFailed(name=name, step=step, reason=reason))
        self.failures.append({"snapshot": name, "step": step, "reason": reason})

    def _retire(self, newest: SnapshotInfo) -> None:
        """Removes those that have expired, once the newest is read back and proves sound."""
        kept = [info for info in self._kept if info.path != newest.path] + [newest]
        expired = self._retention.expired(kept)
        if expired:
            try:
                read_snapshot(newest.path)
            except SnapshotError as error:
                self._failed(newest.path.name, newest.step, _reason(error))
                with contextlib.suppress(OSError):
                    quarantine(newest.path)
                return
        self._kept = kept
        for info in expired:
            # Renamed first: a kill while it is removed must not leave half a snapshot.
            leftover = info.path.with_name(f"{info.path.name}{UNFINISHED}-expired")
            with contextlib.suppress(OSError):
                info.path.rename(leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            self._kept.remove(info)


def _reason(error: Exception) -> str:
    """What kept a save from succeeding; the system's own words where it was the disk."""
    if number := re.search(r"os_error_code='(\d+)'", str(error)):
        return f"OSError: [Errno {number[1]}] {os.strerror(int(number[1]))}"
    return one_line(error)


def list_snapshots(folder: Path) -> list[SnapshotInfo]:
    """The complete snapshots in a `checkpoints/` folder, oldest step first; unverified.

    One whose record cannot be read counts as the newest, so that it is tried and found to be
    damaged rather than overlooked; one that a living run retires meanwhile is left out.
    """
    paths = [path for path in folder.glob("snapshot_*") if UNFINISHED not in path.name]
    infos = [snapshot_info(path) for path in paths if path.is_dir()]
    there = [info for info in infos if info.step != UNKNOWN_STEP or info.path.is_dir()]
    # Of two at one step, the one with an evaluation came later.
    return sorted(there, key=lambda info: (info.step, bool(info.metrics), info.path.name))


def find_newest(folder: Path) -> tuple[Snapshot | None, list[tuple[Path, str]]]:
    """The newest snapshot in a `checkpoints/` folder that proves sound, and the newer ones that do
    not, with the reason; nothing is moved.
    """
    damaged: list[tuple[Path, str]] = []
    for info in reversed(list_snapshots(folder)):
        try:
            return read_snapshot(info.path), damaged
        except SnapshotError as error:
            if info.path.is_dir():  # else a living run has retired it meanwhile
                damaged.append((info.path, str(error)))
    return None, damaged


def snapshot_info(path: Path) -> SnapshotInfo:
    """What the record of a snapshot says; the arrays are not read, nothing is verified."""
    try:
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
        return SnapshotInfo.of(path, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return SnapshotInfo(path, step=UNKNOWN_STEP, metrics={})


def record_path(path: Path) -> Path:
    """Where Orbax keeps the record of a snapshot, as JSON."""
    return path / "record" / "metadata"


def quarantine(path: Path) -> None:
    """Moves a damaged snapshot aside; it is never deleted."""
    folder = path.parent / QUARANTINE
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.name}.{number}"
    path.rename(target)
