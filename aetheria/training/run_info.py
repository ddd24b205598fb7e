"""What is known of a run from its folder, for lists and reports: read without changing anything.

A folder may be damaged, half written, in use, or of an older release. Nothing here raises for that:
what cannot be read is absent, and `RunInfo.problem` says so.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aetheria.engine.typed_json import JsonObject
from aetheria.errors import SnapshotError, shown
from aetheria.observe.goodput import Session, read_goodput
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.run_folder import CHECKPOINTS, NOTE, OUTPUTS, STACKS, is_run
from aetheria.snapshots.run_lock import HOLDER, LOCK, living_holder
from aetheria.snapshots.store import list_snapshots, read_record

_OTHER_OUTPUTS = (LOCK, HOLDER)
_LATEST = 2.5e11  # seconds since the epoch that still are a date


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """One run.

    Attributes:
        path: its folder.
        status: `running`: a living process holds the folder; `killed`: its last process recorded no
            end; `imported`: weights that were never trained here; `unknown`: nothing says; else how
            it ended, in the words of `summary.json`.
        step: the step that it reached; None: nothing says.
        monitor: the metric that says which snapshot is best; empty: not known.
        mode: whether the best is the `min` or the `max`.
        best: its best value; None: there is none.
        started_at: when its first process started, in seconds since the epoch; None: not known.
        updated_at: when it last recorded anything, likewise.
        size_bytes: of all files in the folder.
        note: what the user says of it.
        config: its whole config; empty: not readable.
        summary: `summary.json`, if it is of the run's last process; else empty.
        sessions: its processes.
        snapshots: its snapshots, the oldest step first.
        problem: what cannot be read, in one line; empty: all can.
    """

    path: Path
    status: str
    step: int | None
    monitor: str
    mode: str
    best: float | None
    started_at: float | None
    updated_at: float | None
    size_bytes: int
    note: str
    config: JsonObject
    summary: JsonObject
    sessions: Sequence[Session] = field(repr=False)
    snapshots: Sequence[SnapshotInfo] = field(repr=False)
    problem: str


def find_runs(folder: Path) -> Iterator[Path]:
    """The run folders in a folder and below it, in the order of their names; links are not
    followed.
    """
    for where, names, _ in os.walk(folder):
        path = Path(where)
        with contextlib.suppress(OSError):  # it may not be entered
            if is_run(path):
                yield path
        names[:] = sorted(n for n in names if n not in OUTPUTS and not n.startswith("."))


def read_run(folder: Path) -> RunInfo:
    """Reads what is known of a run."""
    problems: list[str] = []
    config = read_object(folder / "config.json", problems)
    whole_summary = read_object(folder / "summary.json", problems)
    sessions = _sessions(folder, problems)
    snapshots = _snapshots(folder)
    if not config:
        config = _config_of_snapshot(snapshots)
    summary = whole_summary if _is_current(whole_summary, sessions) else {}
    monitor, mode = _monitor(config)
    best = _number(mapping(summary.get("best")).get("value"))
    if best is None:
        infos = Retention(monitor=monitor, mode=mode).best(snapshots)
        best = infos[0].metrics[monitor] if infos else None
    return RunInfo(
        path=folder,
        status=_status(folder, config, summary, sessions),
        step=_step(summary, sessions, snapshots),
        monitor=monitor,
        mode=mode,
        best=best,
        started_at=sessions[0].started_at if sessions else _changed_at(folder / "config.json"),
        updated_at=max((each.until for each in sessions), default=None)
        or _changed_at(folder / "summary.json"),
        size_bytes=size_of(folder),
        note=read_note(folder),
        config=config,
        summary=summary,
        sessions=sessions,
        snapshots=snapshots,
        problem="; ".join(problems),
    )


def is_certainly_run(folder: Path) -> bool:
    """Whether a folder holds a run beyond doubt: other programs write a `config.json` too."""
    if any(each.step is not None for each in _snapshots(folder)):
        return True
    keys = read_object(folder / "config.json", []).keys()
    written = ("provenance.json", "summary.json", "goodput.jsonl", "ledger.jsonl")
    return {"model_name", "mixed_precision"} <= keys or (
        is_run(folder) and any((folder / name).is_file() for name in written)
    )


def run_files(folder: Path) -> tuple[list[Path], list[str]]:
    """What a run wrote into its folder, `config.json` last; and the names of everything else."""
    there = {path.name: path for path in sorted(folder.iterdir())}
    stacks = {path.name for path in folder.glob(STACKS)}
    written = [n for n in there if n in OUTPUTS or n in _OTHER_OUTPUTS or n in stacks]
    written.sort(key=lambda name: name == "config.json")
    return [there[n] for n in written], [n for n in there if n not in written]


def read_note(folder: Path) -> str:
    """What the user says of a run; empty: nothing."""
    try:
        text = (folder / NOTE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return " ".join(text.split())


def read_object(file: Path, problems: list[str]) -> JsonObject:
    """Reads a file with one JSON object; empty if there is none, or if it cannot be read, which
    adds a line to `problems`.
    """
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{file.name} cannot be read ({type(error).__name__})")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{file.name} holds {shown(value)[:40]}, and no object")
        return {}
    return value


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder and below; what is gone counts 0."""
    total = 0
    if not path.is_dir() or path.is_symlink():
        with contextlib.suppress(OSError):
            total = path.lstat().st_size
        return total
    for where, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def mapping(value: object) -> JsonObject:
    """A value read from JSON, or an empty object where it is none."""
    return value if isinstance(value, Mapping) else {}


def _sessions(folder: Path, problems: list[str]) -> Sequence[Session]:
    try:
        return [each for each in read_goodput(folder) if _is_plausible(each)]
    except (OSError, RecursionError) as error:
        problems.append(f"goodput.jsonl cannot be read ({type(error).__name__})")
        return []


def _is_plausible(session: Session) -> bool:
    """Whether its numbers are finite, and its times can be dates."""
    times = (session.started_at, session.until, *session.seconds.values())
    steps = (session.first_step, session.step, session.furthest)
    return all(abs(number) < _LATEST for number in (*times, *steps))


def _snapshots(folder: Path) -> Sequence[SnapshotInfo]:
    try:
        return list_snapshots(folder / CHECKPOINTS)
    except OSError:
        return []


def _config_of_snapshot(snapshots: Sequence[SnapshotInfo]) -> JsonObject:
    """Release 0.1.0 wrote the config into its snapshots alone."""
    for info in reversed(snapshots):
        with contextlib.suppress(SnapshotError):
            return read_record(info.path).run.config
    return {}


def _is_current(summary: JsonObject, sessions: Sequence[Session]) -> bool:
    """Whether the last process wrote the summary, and not one before it."""
    counted = mapping(summary.get("goodput") or summary.get("ledger")).get("processes")
    return not isinstance(counted, int) or counted >= len(sessions)


def _status(
    folder: Path, config: JsonObject, summary: JsonObject, sessions: Sequence[Session]
) -> str:
    if living_holder(folder) is not None:
        return "running"
    said = summary.get("status")
    if isinstance(said, str):
        return said
    if sessions:
        return "killed" if sessions[-1].status == "running" else str(sessions[-1].status)
    return "imported" if "file" in mapping(config.get("lineage")) else "unknown"


def _step(
    summary: JsonObject, sessions: Sequence[Session], snapshots: Sequence[SnapshotInfo]
) -> int | None:
    said = summary.get("steps")
    if isinstance(said, int):
        return said
    known = [each.step for each in snapshots if each.step is not None]
    return max([*known, *(int(each.step) for each in sessions[-1:])], default=None)


def _monitor(config: JsonObject) -> tuple[str, str]:
    said = mapping(config.get("snapshot"))
    monitor, mode = said.get("monitor"), said.get("mode")
    default = Retention()
    return (
        monitor if isinstance(monitor, str) else default.monitor if config else "",
        mode if isinstance(mode, str) else default.mode,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _changed_at(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None
