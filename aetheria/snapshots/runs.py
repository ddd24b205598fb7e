"""Run folders: where a run is written, and which snapshot a `--resume` stands for.

Finding writes nothing: a wrong request leaves everything as it was. `RunPlan.prepare` writes, in a
folder that `aetheria.snapshots.claim` has taken for this process.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aetheria.config.paths import check_local
from aetheria.engine.interfaces import Snapshot
from aetheria.errors import SnapshotError
from aetheria.snapshots.provenance import Provenance
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.run_lock import RunLock, refuse_if_held
from aetheria.snapshots.snapshot_files import read_snapshot
from aetheria.snapshots.store import find_newest, list_snapshots, quarantine, snapshot_info

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
DUMPS = "dumps"
# What a run writes, and so what --overwrite may remove. Nothing else in the folder is touched.
OUTPUTS = (
    "config.json",
    "provenance.json",
    "summary.json",
    "metrics.jsonl",
    "metrics.csv",
    "goodput.jsonl",
    "ledger.jsonl",
    "tensorboard",
    "wandb",
    CHECKPOINTS,
    DUMPS,
)
# What a run folder was found to hold: whether it is a run, and the names of its snapshots.
Found = tuple[bool, tuple[str, ...]]
_MOST_NAMES = 8  # in an error
_HISTORY = ("metrics.jsonl", "metrics.csv", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What starting will do.

    Attributes:
        run_dir: the run folder.
        snapshot: what to resume from, verified; None to start afresh.
        parent: the run folder that is forked from; None if the run goes on in its own folder.
        damaged: newer snapshots that could not be trusted, with the reason.
        overwrite: remove what an earlier run left in `run_dir`.
        numbered: `run_dir` is the next number under `runs/`; where that is taken meanwhile, another
            one will do.
        found: what `run_dir` held when it was looked at; None: it does not matter.
        lock: this process's lock on `run_dir`; None: it is not taken yet.
        notes: what taking it showed, a line each.
    """

    run_dir: Path
    snapshot: Snapshot | None = None
    parent: Path | None = None
    damaged: tuple[tuple[Path, str], ...] = ()
    overwrite: bool = False
    numbered: bool = False
    found: Found | None = None
    lock: RunLock | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """Says what was resolved, a line each."""
        lines = [*self.notes, *(f"{why}; moved to quarantine" for _, why in self.damaged)]
        if self.snapshot is None:
            return [*lines, f"run folder: {self.run_dir} (starting afresh)"]
        progress = self.snapshot.record["progress"]
        lines.append(
            f"resuming from {self.snapshot.path} (step {progress['step']}, "
            f"epoch {progress['epoch']}, verified)"
        )
        is_fork = f" (forked from {self.parent})" if self.parent else ""
        return [*lines, f"run folder: {self.run_dir}{is_fork}"]

    def lineage(self) -> dict[str, Any] | None:
        """Where a forked run comes from, for its config and snapshots; None if it is no fork."""
        if self.snapshot is None:
            return None
        if self.parent is None:
            return self.snapshot.record["lineage"]
        return {
            "run": os.path.abspath(self.parent),
            "snapshot": self.snapshot.path.name,
            "step": self.snapshot.record["progress"]["step"],
        }

    def prepare(self, config: Mapping[str, Any], provenance: Provenance | None = None) -> None:
        """Makes the folder: quarantines, removes what is overwritten, copies a fork's history,
        writes `config.json`, and `provenance.json` if there is any.

        Raises:
            SnapshotError: the disk does not take it.
        """
        try:
            self._prepare(config, provenance)
        except OSError as error:
            raise cannot_write(self.run_dir, error) from error

    def write_config(self, config: Mapping[str, Any], provenance: Provenance | None) -> None:
        """Writes `config.json`: with the lineage, by which a fork without a snapshot of its own
        goes on from what it forked, and with what the config resolved to; and `provenance.json`.
        """
        resolved = {}
        if provenance is not None:
            resolved = {"resolved": provenance.resolved}
            write_json(self.run_dir / "provenance.json", provenance.details())
        lineage = {"lineage": self.lineage()}
        write_json(self.run_dir / "config.json", {**config, **resolved, **lineage})

    def _prepare(self, config: Mapping[str, Any], provenance: Provenance | None) -> None:
        for path, _ in self.damaged:
            quarantine(path)
        if self.overwrite:
            for name in OUTPUTS:
                _remove(self.run_dir / name)
            for stacks in self.run_dir.glob("hang_rank*.txt"):
                stacks.unlink()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if self.parent is not None and not is_run(self.run_dir):
            for name in _HISTORY:
                _copy(self.parent / name, self.run_dir / name)
        self.write_config(config, provenance)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for.

    Attributes:
        config_name: the config file's name without its ending.
        workdir: the run folder; None: a new one under `runs/<config name>/`.
        resume: None, `auto`, `latest`, `best`, a step, or a path.
        overwrite: whether an earlier run in `workdir` may be removed.
        retention: says what `best` means.
    """

    config_name: str
    workdir: Path | None = None
    resume: str | None = None
    overwrite: bool = False
    retention: Retention = field(default_factory=Retention)

    def resolve(self) -> RunPlan:
        """Finds the folder and the snapshot.

        Raises:
            SnapshotError: there is no such snapshot, none is sound, a run would be overwritten, or
                a living process holds the folder.
        """
        check_local("--workdir", self.workdir)
        check_local("--resume", self.resume)
        if self.workdir is not None:
            refuse_if_held(self.workdir)
        if self.resume is None:
            return self._afresh()
        if self.overwrite:
            raise SnapshotError(
                "--overwrite: expected it without --resume, got both; a resumed run overwrites "
                "nothing"
            )
        current = self.workdir or newest_run(self.config_name)
        if self.resume in ("auto", "latest"):
            return self._newest(current)
        return self._from(self._choose(current))

    def _afresh(self) -> RunPlan:
        if self.workdir is None:
            return self._next()
        if is_run(self.workdir) and not self.overwrite:
            raise SnapshotError(
                f"--workdir: expected a folder without a run, got {self.workdir}; "
                "add --resume=latest to go on with it, or --overwrite to replace it"
            )
        found = None if self.overwrite else look(self.workdir)
        return RunPlan(run_dir=self.workdir, overwrite=self.overwrite, found=found)

    def _next(self, **fork: Any) -> RunPlan:
        """Plans a run in the next folder under `runs/`; `fork`: the snapshot and its run."""
        return RunPlan(run_dir=_next_run(self.config_name), numbered=True, **fork)

    def _newest(self, current: Path | None) -> RunPlan:
        if current is None:
            found, newest, damaged = None, None, []
        else:
            refuse_if_held(current)
            found = look(current)
            newest, damaged = find_newest(current / CHECKPOINTS)
        if current is not None and newest is not None:
            return RunPlan(run_dir=current, snapshot=newest, damaged=tuple(damaged), found=found)
        if damaged:
            raise SnapshotError(f"{damaged[0][1]} (no other snapshot in {current} is sound)")
        if current is not None and (is_fork := _forked_from(current)):
            parent, path = is_fork
            return RunPlan(
                run_dir=current, snapshot=read_snapshot(path), parent=parent, found=found
            )
        if self.resume == "auto":
            return self._next() if current is None else RunPlan(run_dir=current, found=found)
        where = current or RUNS / self.config_name
        raise SnapshotError(
            f"--resume: expected a snapshot in {where}, got none; start without --resume, or with "
            "--resume=auto"
        )

    def _choose(self, current: Path | None) -> SnapshotInfo:
        """Finds the one snapshot meant by `best`, a step or a path."""
        assert self.resume is not None
        infos = list_snapshots(current / CHECKPOINTS) if current else []
        if self.resume == "best":
            found = self.retention.best(infos)
            what = f"a snapshot with {self.retention.monitor}"
        elif self.resume.isdigit():
            found = [info for info in reversed(infos) if info.step == int(self.resume)]
            what = f"a snapshot of step {self.resume}"
        else:
            return snapshot_info(find_snapshot(self.resume, [current] if current else []))
        if not found:
            where = current or RUNS / self.config_name
            there = _some(info.path.name for info in infos) if infos else what_is_there(where)
            got = there if infos else f"none ({there})"
            raise SnapshotError(f"--resume: expected {what} in {where}, got {got}; name one")
        return found[0]

    def _from(self, info: SnapshotInfo) -> RunPlan:
        """Goes on in the snapshot's own run if it is the newest there, else forks."""
        in_run = info.path.parent.name == CHECKPOINTS
        owner = info.path.parent.parent if in_run else info.path.parent
        found = look(owner)
        is_newest = in_run and list_snapshots(info.path.parent)[-1].path.name == info.path.name
        elsewhere = self.workdir is not None and self.workdir.resolve() != owner.resolve()
        if is_newest and not elsewhere:
            refuse_if_held(owner)
            return RunPlan(run_dir=owner, snapshot=read_snapshot(info.path), found=found)
        if elsewhere:
            assert self.workdir is not None
            if is_run(self.workdir):
                raise SnapshotError(
                    f"--workdir: expected a folder without a run to fork into, got {self.workdir}; "
                    "name another"
                )
            there, snapshot = look(self.workdir), read_snapshot(info.path)
            return RunPlan(run_dir=self.workdir, snapshot=snapshot, parent=owner, found=there)
        return self._next(snapshot=read_snapshot(info.path), parent=owner)


def find_snapshot(path: str, runs: list[Path]) -> Path:
    """Finds a snapshot folder by a path: from the current folder, then in the given runs.

    An ending `.pt` or `/` is ignored; a run folder stands for its newest snapshot.

    Raises:
        SnapshotError: nothing is there.
    """
    check_local("snapshot", path)
    text = Path(path.removesuffix(".pt"))
    candidates = [text]
    if not text.is_absolute():
        candidates += [place for run in runs for place in (run / text, run / CHECKPOINTS / text)]
    for candidate in candidates:
        if candidate.is_dir() and candidate.name.startswith("snapshot_"):
            return candidate
        if (candidate / "manifest").is_dir():  # a copy under another name
            return candidate
        infos = list_snapshots(candidate / CHECKPOINTS)
        if infos:
            return infos[-1].path
    for candidate in (Path(path), *candidates):
        if candidate.is_file():
            raise SnapshotError(
                f"snapshot: expected the folder of a snapshot, got the file {candidate}, which is "
                "not read; name a folder"
            )
    known = [info.path for run in runs for info in list_snapshots(run / CHECKPOINTS)]
    there = f"known: {_some(map(str, known))}" if known else what_is_there(text)
    got = "a folder without one" if text.is_dir() else "nothing there"
    raise SnapshotError(f"snapshot: expected one at {path}, got {got}; {there}")


def what_is_there(path: Path) -> str:
    """Says what the nearest folder on the way to a path holds."""
    folder = next((each for each in (path, *path.parents) if each.is_dir()), Path())
    try:
        names = sorted(item.name for item in folder.iterdir() if item.name[0] != ".")
    except OSError as error:
        return f"{folder.resolve()} cannot be read ({error.strerror})"
    return f"{folder.resolve()} holds {_some(names)}" if names else f"{folder.resolve()} is empty"


def _some(names: Iterable[str]) -> str:
    """The first few of many names."""
    all_names = list(names)
    more = len(all_names) - _MOST_NAMES
    return ", ".join(all_names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, even one that ended before its first snapshot."""
    return (folder / "config.json").exists() or (folder / CHECKPOINTS).exists()


def look(folder: Path) -> Found:
    """What a folder holds of a run, to be compared with what it holds later."""
    names = tuple(info.path.name for info in list_snapshots(folder / CHECKPOINTS))
    return is_run(folder), names


def cannot_write(folder: Path, error: OSError) -> SnapshotError:
    """Says that a run folder is not to be written to."""
    return SnapshotError(
        f"--workdir: expected a folder that can be written to, got {folder} ({error.strerror}); "
        "name another"
    )


def newest_run(config_name: str) -> Path | None:
    """The run folder of a config with the highest number, under `runs/` of the current folder."""
    folders = [RUNS / config_name / str(number) for number in _run_numbers(config_name)]
    runs = [folder for folder in folders if is_run(folder)]
    return max(runs, key=lambda folder: int(folder.name), default=None)


def newest_runs() -> list[Path]:
    """Every run folder under `runs/` of the current folder, the last started first."""
    started = [(file.stat().st_mtime, file.parent) for file in RUNS.glob("*/*/config.json")]
    return [folder for _, folder in sorted(started, reverse=True)]


def write_json(path: Path, value: Any) -> None:
    """Writes a file that is whole at every moment."""
    partial = path.with_suffix(path.suffix + ".tmp")
    try:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _forked_from(fork: Path) -> tuple[Path, Path] | None:
    """The run and the snapshot that a fork goes on from; None if the folder holds no fork.

    Raises:
        SnapshotError: that snapshot is gone.
    """
    try:
        lineage = json.loads((fork / "config.json").read_text(encoding="utf-8"))["lineage"]
        parent, name = Path(lineage["run"]), lineage["snapshot"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for path in (parent / CHECKPOINTS / name, parent / name):
        if path.is_dir():
            return parent, path
    raise SnapshotError(
        f"--resume: expected {name} in {parent}, which {fork} was forked from and has no snapshot "
        "beyond, got nothing there; put it back, or fork another snapshot into a new folder"
    )


def _next_run(config_name: str) -> Path:
    return RUNS / config_name / str(max(_run_numbers(config_name), default=0) + 1)


def _run_numbers(config_name: str) -> list[int]:
    folder = RUNS / config_name
    return [int(p.name) for p in folder.glob("*") if p.name.isdigit()] if folder.is_dir() else []


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
