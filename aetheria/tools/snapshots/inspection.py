"""Inspects the snapshots of a run without changing them."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aetheria.errors import SnapshotError
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.run_folder import CHECKPOINTS
from aetheria.snapshots.sizes import folder_bytes
from aetheria.snapshots.snapshot_files import read_snapshot
from aetheria.snapshots.store import QUARANTINE, list_snapshots, read_record, snapshot_info


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What is known about one snapshot.

    Attributes:
        path: its folder.
        step: the step of the run; None if its record cannot be read.
        size_bytes: the size of its files.
        age_seconds: the time since it was complete.
        best: whether it is the best one, by the metric that the config monitors.
        passed_check: the last step whose state had passed a spot check; None: none had.
        problem: why it is damaged; empty: every leaf matches its digest; None: not verified.
    """

    path: Path
    step: int | None
    size_bytes: int
    age_seconds: float
    best: bool
    passed_check: int | None
    problem: str | None


def inspect_run(where: Path, *, verify: bool) -> Iterator[Inspected]:
    """Inspects the snapshots of a run folder, oldest step first, or the snapshot `where`.

    Raises:
        SnapshotError: there is no snapshot.
    """
    in_run = where / CHECKPOINTS
    infos = list_snapshots(in_run if in_run.is_dir() else where)
    if not infos and (where / "manifest").is_dir():
        infos = [snapshot_info(where)]
    if not infos:
        raise SnapshotError(
            f"snapshots: expected a run folder with snapshots, or one of them, got {where}; "
            "name another"
        )
    best = _retention(infos).best(infos) if in_run.is_dir() else []
    for info in infos:
        path = info.path
        yield Inspected(
            path=path,
            step=info.step,
            size_bytes=folder_bytes(path),
            age_seconds=max(0.0, time.time() - path.stat().st_mtime),
            best=bool(best) and best[0].path == path,
            passed_check=_passed_check(path),
            problem=_problem(path) if verify else None,
        )


def list_quarantined(where: Path) -> list[Path]:
    """The snapshots of a run that are in quarantine."""
    folder = where / CHECKPOINTS / QUARANTINE
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _passed_check(path: Path) -> int | None:
    with contextlib.suppress(SnapshotError):
        return read_record(path).engine.passed_check
    return None


def _problem(path: Path) -> str:
    try:
        read_snapshot(path)
    except SnapshotError as error:
        return str(error)
    return ""


def _retention(infos: list[SnapshotInfo]) -> Retention:
    """The retention policy in the newest readable snapshot, which defines the best one."""
    for info in reversed(infos):
        with contextlib.suppress(SnapshotError):
            snapshot = read_record(info.path).run.config.get("snapshot")
            said = snapshot if isinstance(snapshot, Mapping) else {}
            monitor, mode = said.get("monitor"), said.get("mode")
            if isinstance(monitor, str) and isinstance(mode, str):
                return Retention(monitor=monitor, mode=mode)
    return Retention()
