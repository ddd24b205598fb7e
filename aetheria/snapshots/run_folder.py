"""Run folders: their names, what a run writes there, and how they are found."""

import json
from collections.abc import Iterable
from pathlib import Path

from aetheria.errors import SnapshotError
from aetheria.snapshots.store import list_snapshots

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
DUMPS = "dumps"
STARTS = "starts"
STACKS = "hang_rank*.txt"  # of the threads of each process, by the watchdog
NOTE = "note.txt"  # what a user says of the run
_ABOUT_IT = ("config.json", "provenance.json", "summary.json")
# What a run writes, and so what --overwrite may remove. Nothing else in the folder is touched.
OUTPUTS = (
    *_ABOUT_IT,
    "metrics.jsonl",
    "metrics.csv",
    "goodput.jsonl",
    "ledger.jsonl",
    "samples.jsonl",
    "tensorboard",
    "wandb",
    "comet",
    "points",
    STARTS,
    CHECKPOINTS,
    DUMPS,
    NOTE,
)
# What a folder holds of a run: whether it is a run, and the names of its snapshots.
Contents = tuple[bool, tuple[str, ...]]
_MAX_NAMES = 8  # in an error


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, even one that ended before its first snapshot."""
    return (folder / "config.json").exists() or (folder / CHECKPOINTS).exists()


def failed_at_start(folder: Path) -> bool:
    """Whether a folder holds a run that an error ended before its first step: nothing to lose."""
    try:
        failed = json.loads((folder / "summary.json").read_bytes())["status"] == "failed"
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return failed and not any(
        _has_content(folder / name) for name in OUTPUTS if name not in _ABOUT_IT
    )


def _has_content(path: Path) -> bool:
    if path.is_dir():
        return any(_has_content(item) for item in path.iterdir())
    return path.exists() and path.stat().st_size > 0


def look(folder: Path) -> Contents:
    """What a folder holds of a run, to be compared with what it holds later."""
    names = tuple(info.path.name for info in list_snapshots(folder / CHECKPOINTS))
    return is_run(folder), names


def next_run(config_name: str) -> Path:
    """The next free number under `runs/` of the current folder."""
    return RUNS / config_name / str(max(_run_numbers(config_name), default=0) + 1)


def newest_run(config_name: str) -> Path | None:
    """The run folder of a config with the highest number, under `runs/` of the current folder."""
    folders = [RUNS / config_name / str(number) for number in _run_numbers(config_name)]
    runs = [folder for folder in folders if is_run(folder)]
    return max(runs, key=lambda folder: int(folder.name), default=None)


def newest_runs() -> list[Path]:
    """Every run folder under `runs/` of the current folder, the last started first."""
    started = [(file.stat().st_mtime, file.parent) for file in RUNS.glob("*/*/config.json")]
    return [folder for _, folder in sorted(started, reverse=True)]


def what_is_there(path: Path) -> str:
    """Describes what the nearest existing folder of a path holds."""
    folder = next((each for each in (path, *path.parents) if each.is_dir()), Path())
    try:
        names = sorted(item.name for item in folder.iterdir() if item.name[0] != ".")
    except OSError as error:
        return f"{folder.resolve()} cannot be read ({error.strerror})"
    return f"{folder.resolve()} holds {some(names)}" if names else f"{folder.resolve()} is empty"


def some(names: Iterable[str]) -> str:
    """The first few of many names, and how many more there are.

    >>> some("abcdefghij")
    'a, b, c, d, e, f, g, h and 2 more'
    """
    all_names = list(names)
    more = len(all_names) - _MAX_NAMES
    return ", ".join(all_names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def cannot_write(folder: Path, error: OSError) -> SnapshotError:
    """The error for a run folder that cannot be written to."""
    return SnapshotError(
        f"--workdir: expected a folder that can be written to, got {folder} ({error.strerror}); "
        "name another"
    )


def write_json(path: Path, value: object) -> None:
    """Writes a file that is complete at every moment."""
    partial = path.with_suffix(path.suffix + ".tmp")
    try:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _run_numbers(config_name: str) -> list[int]:
    folder = RUNS / config_name
    return [int(p.name) for p in folder.glob("*") if p.name.isdigit()] if folder.is_dir() else []
