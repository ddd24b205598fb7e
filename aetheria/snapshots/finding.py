"""Snapshots by path, and the snapshot that a fork started from."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from aetheria.config.paths import check_local
from aetheria.errors import SnapshotError
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.run_folder import CHECKPOINTS, RUNS, newest_run, some, what_is_there
from aetheria.snapshots.store import list_snapshots, read_record


def find_snapshot(path: str, runs: list[Path]) -> Path:
    """Finds a snapshot folder by a path: from the current folder, then in the given runs.

    An ending `.pt` or `/` is ignored; a run folder stands for its newest snapshot. `RUN@best`,
    `RUN@latest` and `RUN@STEP` choose one of a run; RUN is a run folder, or a name under `runs/`.

    Raises:
        SnapshotError: nothing is there.
    """
    check_local("snapshot", path)
    run, at, which = path.rpartition("@")
    if at and is_choice(which) and not Path(path).exists():
        return _select(run, which, runs)
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
    there = f"known: {some(map(str, known))}" if known else what_is_there(text)
    got = "a folder without one" if text.is_dir() else "nothing there"
    raise SnapshotError(f"snapshot: expected one at {path}, got {got}; {there}")


def is_choice(word: str) -> bool:
    """Whether a word chooses one of the snapshots of a run."""
    return word in ("best", "latest") or word.isdigit()


def _select(run: str, which: str, runs: list[Path]) -> Path:
    """The snapshot of a run that `best`, `latest` or a step stands for."""
    folders = [Path(run), RUNS / run, *filter(None, [newest_run(run)])] if run else runs
    for folder in folders:
        infos = list_snapshots(folder / CHECKPOINTS)
        if not infos:
            continue
        if found := _retention(infos).select(infos, which):
            return found[0].path
        raise SnapshotError(
            f"snapshot: expected one of {'step ' * which.isdigit()}{which} in {folder}, got "
            f"{some(info.path.name for info in infos)}; name one"
        )
    where = folders[0] if folders else RUNS
    raise SnapshotError(
        f"snapshot: expected a run with snapshots at {where}, got none; {what_is_there(where)}"
    )


def _retention(infos: Sequence[SnapshotInfo]) -> Retention:
    """What the run itself means by best: its newest readable snapshot holds its config."""
    for info in reversed(infos):
        with contextlib.suppress(SnapshotError):
            chosen = read_record(info.path).run.config.get("snapshot")
            if isinstance(chosen, Mapping):
                monitor, mode = (chosen.get(key) or "" for key in ("monitor", "mode"))
                return Retention(monitor=str(monitor), mode=str(mode))
    return Retention()


def find_in_parent(parent: Path, name: str) -> Path | None:
    """The snapshot of a run, or of a folder of snapshots, that another run was forked from; None:
    it is gone.
    """
    places = (parent / CHECKPOINTS / name, parent / name)
    return next((path for path in places if path.is_dir()), None)


def forked_from(fork: Path) -> tuple[Path, Path] | None:
    """The run and the snapshot that a fork started from; None if the folder holds no fork.

    Raises:
        SnapshotError: that snapshot is gone.
    """
    try:
        lineage = json.loads((fork / "config.json").read_text(encoding="utf-8"))["lineage"]
        parent, name = Path(lineage["run"]), lineage["snapshot"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if (path := find_in_parent(parent, name)) is not None:
        return parent, path
    raise SnapshotError(
        f"--resume: expected {name} in {parent}, which {fork} was forked from and has no snapshot "
        "beyond, got nothing there; put it back, or fork another snapshot into a new folder"
    )
