"""The snapshots of one run: written in the background, kept or retired, the newest read back.

Each is a folder `snapshot_ep5` or `snapshot_step120`; see `aetheria.snapshots.snapshot_files`.
"""

import contextlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from numpy.typing import ArrayLike

from aetheria.engine.interfaces import Snapshot
from aetheria.engine.record import NewerRecordError, SnapshotRecord
from aetheria.errors import SnapshotError
from aetheria.events import SnapshotFailed, SnapshotSaved
from aetheria.snapshots.quiet_orbax import UNFINISHED
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.snapshot_files import one_line, read_snapshot, write_snapshot

QUARANTINE = "quarantine"


class BestSnapshot(TypedDict):
    """The best snapshot kept, for the summary of a run."""

    snapshot: str
    step: int | None
    monitor: str
    value: float
    metrics: dict[str, float]


class FailedSave(TypedDict):
    """A save that failed, for the summary of a run."""

    snapshot: str
    step: int
    reason: str


class SnapshotStore:
    """Writes the snapshots of one run, one at a time, in a thread of its own.

    Attributes:
        failures: the saves that failed.

    Args:
        folder: the run's `checkpoints/`; made at the first save.
        retention: which snapshots to keep.
    """

    def __init__(self, folder: Path, retention: Retention):
        self._folder, self._retention = folder, retention
        self._kept = list_snapshots(folder)
        self._thread: threading.Thread | None = None
        self._events: list[SnapshotSaved | SnapshotFailed] = []
        self.failures: list[FailedSave] = []
        self._written: set[Path] = set()
        self._num_attempts = 0

    def busy(self) -> bool:
        """Whether a save is still under way."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, name: str, arrays: Mapping[str, ArrayLike], record: SnapshotRecord) -> None:
        """Starts writing; returns at once.

        Args:
            name: the folder's name.
            arrays: leaf path -> array. The store owns them: it reads them later, in its thread.
            record: copied now, since listeners may change their states later.
        """
        assert not self.busy(), "one save at a time"
        self._num_attempts += 1
        record = SnapshotRecord.from_json(json.loads(json.dumps(record.to_json())))
        self._thread = threading.Thread(
            target=self._write, args=(name, [arrays], record), name="aetheria-snapshot"
        )
        self._thread.start()

    def finished(self, *, wait: bool = False) -> list[SnapshotSaved | SnapshotFailed]:
        """The saves that have ended since the last call."""
        if self._thread is not None and wait:
            self._thread.join()
        if self.busy():
            return []
        events, self._events = self._events, []
        return events

    def read_newest(self, up_to_step: int | None = None) -> Snapshot | None:
        """Reads the newest undamaged snapshot; moves damaged ones to quarantine.

        Args:
            up_to_step: if there is one of this step or an earlier one, those of later steps are
                moved there, too.
        """
        assert not self.busy(), "a save is under way"
        newest, damaged = find_newest(self._folder, up_to_step)
        left = [path for path, _ in damaged]
        if up_to_step is not None:
            if newest is None:
                return self.read_newest()
            later = [i.path for i in list_snapshots(self._folder) if (i.step or 0) > up_to_step]
            left += [path for path in later if path not in left]
        for path in left:
            quarantine(path)
        self._kept = [kept for kept in self._kept if kept.path not in left]
        return newest

    def best(self) -> BestSnapshot | None:
        """The best snapshot kept; None if none was evaluated."""
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
        """Whether this process tried to save, and none of its snapshots is there."""
        return self._num_attempts > 0 and not any(path.is_dir() for path in self._written)

    def _write(self, name: str, box: list[Mapping[str, ArrayLike]], record: SnapshotRecord) -> None:
        """The arrays come in a box, so that nothing else refers to them while they are written."""
        started_at, step = time.perf_counter(), record.progress.step
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
        self._retire(SnapshotInfo.of(self._folder / name, record), step)

    def _clean(self) -> None:
        """Removes what a killed or failed save left behind; nothing else removes it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"*{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _failed(self, name: str, step: int, reason: str) -> None:
        self._events.append(SnapshotFailed(name=name, step=step, reason=reason))
        self.failures.append({"snapshot": name, "step": step, "reason": reason})

    def _retire(self, newest: SnapshotInfo, step: int) -> None:
        """Removes expired snapshots, once the newest has been read back and is undamaged."""
        kept = [info for info in self._kept if info.path != newest.path] + [newest]
        expired = self._retention.expired(kept)
        if expired:
            try:
                read_snapshot(newest.path)
            except SnapshotError as error:
                self._failed(newest.path.name, step, _reason(error))
                with contextlib.suppress(OSError):
                    quarantine(newest.path)
                return
        self._kept = kept
        for info in expired:
            # Renamed first: a kill during the removal must not leave half a snapshot.
            leftover = info.path.with_name(f"{info.path.name}{UNFINISHED}-expired")
            with contextlib.suppress(OSError):
                info.path.rename(leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            self._kept.remove(info)


def _reason(error: Exception) -> str:
    """Why a save failed; in the system's words where it was the disk."""
    if number := re.search(r"os_error_code='(\d+)'", str(error)):
        return f"OSError: [Errno {number[1]}] {os.strerror(int(number[1]))}"
    return one_line(error)


def list_snapshots(folder: Path) -> list[SnapshotInfo]:
    """Lists the complete snapshots in a `checkpoints/` folder, oldest step first; unverified.

    One that cannot be read counts as the newest. One that a living run retires meanwhile is left
    out.
    """
    paths = [path for path in folder.glob("snapshot_*") if UNFINISHED not in path.name]
    infos = [snapshot_info(path) for path in paths if path.is_dir()]
    there = [info for info in infos if info.step is not None or info.path.is_dir()]
    # Of two at one step, the one with an evaluation came later.
    return sorted(there, key=lambda info: (info.age_rank, bool(info.metrics), info.path.name))


def find_newest(
    folder: Path, up_to_step: int | None = None
) -> tuple[Snapshot | None, list[tuple[Path, str]]]:
    """Finds the newest undamaged snapshot in a `checkpoints/` folder, and the damaged ones that
    are newer, with the reason; moves nothing.

    Args:
        folder: where to look.
        up_to_step: of this step or an earlier one; None: of any.

    Raises:
        NewerRecordError: a newer release wrote the newest, so that it is not damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for info in reversed(list_snapshots(folder)):
        if up_to_step is not None and info.step is not None and info.step > up_to_step:
            continue
        try:
            return read_snapshot(info.path), damaged
        except NewerRecordError:
            raise
        except SnapshotError as error:
            if info.path.is_dir():  # else a living run has retired it meanwhile
                damaged.append((info.path, str(error)))
    return None, damaged


def snapshot_info(path: Path) -> SnapshotInfo:
    """Reads the record of a snapshot, not the arrays, and verifies nothing."""
    try:
        return SnapshotInfo.of(path, read_record(path))
    except SnapshotError:
        return SnapshotInfo(path, step=None, metrics={})


def read_record(path: Path) -> SnapshotRecord:
    """Reads the record of a snapshot, unverified.

    Raises:
        SnapshotError: there is none, or it cannot be read.
    """
    try:
        # Where Orbax writes JSON.
        text = (path / "record" / "metadata").read_text(encoding="utf-8")
        return SnapshotRecord.from_json(json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        raise SnapshotError(f"{path}: expected a record, got {one_line(error)}") from error


def quarantine(path: Path) -> None:
    """Moves a damaged snapshot aside; it is never deleted."""
    folder = path.parent / QUARANTINE
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.name}.{number}"
    path.rename(target)
