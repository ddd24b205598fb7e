"""The folder of a sweep in a report: its runs, and a table of its trials."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aetheria.snapshots.run_folder import is_run
from aetheria.tools.report.markup import Safe, join, table
from aetheria.training.run_info import mapping, read_object

_RESULTS = "sweep.json"


def with_runs_of_sweeps(folders: Sequence[Path]) -> list[Path]:
    """The folders, with the runs of a sweep in place of its folder."""
    return [run for folder in folders for run in _runs(folder)]


def sweep_tables(folders: Sequence[Path]) -> Safe:
    """The trials of each folder that is a sweep, the best first."""
    return join([_table(folder) for folder in folders if _read(folder)])


def _runs(folder: Path) -> list[Path]:
    runs = [folder / path for each in _trials(folder) for path in _folders(each)]
    return [run for run in runs if is_run(run)] or [folder]


def _read(folder: Path) -> Mapping[str, Any]:
    """What a sweep has written; empty: the folder is none, or its file is damaged."""
    return {} if is_run(folder) else read_object(folder / _RESULTS, [])


def _trials(folder: Path) -> list[Mapping[str, Any]]:
    trials = _read(folder).get("trials")
    return [mapping(each) for each in trials] if isinstance(trials, list) else []


def _folders(trial: Mapping[str, Any]) -> list[str]:
    runs = trial.get("runs")
    found = [mapping(run).get("folder") for run in runs] if isinstance(runs, list) else []
    return [each for each in found if isinstance(each, str)]


def _table(folder: Path) -> Safe:
    settings, trials = mapping(_read(folder).get("settings")), _trials(folder)
    keys = list(dict.fromkeys(key for trial in trials for key in mapping(trial.get("point"))))
    sign = -1 if settings.get("mode") == "max" else 1

    def rank(trial: Mapping[str, Any]) -> tuple[bool, float]:
        value = trial.get("value")
        if isinstance(value, int | float) and trial.get("status") == "complete":
            return False, sign * value
        return True, 0.0

    rows = [
        (
            _text(trial.get("number")),
            _text(trial.get("status")),
            _text(trial.get("value")),
            _text(trial.get("spread")),
            *(_text(mapping(trial.get("point")).get(key)) for key in keys),
            ", ".join(_folders(trial)),
        )
        for trial in sorted(trials, key=rank)
    ]
    title = f"Trials of {folder}"
    return table(
        title, ("trial", "status", _text(settings.get("metric")), "±", *keys, "runs"), rows
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
