"""What came out of a sweep: `sweep.json`, and a table."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from aetheria.cli.table import print_table
from aetheria.snapshots.run_folder import write_json
from aetheria.tools.sweep.settings import Settings
from aetheria.tools.sweep.study import REASON, RUNS, SweepStudy

RESULTS = "sweep.json"
_FORMAT = 1
_STATUS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


def write_results(study: SweepStudy, settings: Settings) -> dict[str, Any]:
    """Writes and returns the contents of `sweep.json`."""
    with study.lock.held():
        trials = [_trial(study, each) for each in study.trials()]
        statuses = [trial["status"] for trial in trials]
        results = {
            "format": _FORMAT,
            "settings": settings.to_json(),
            "counts": {name: statuses.count(name) for name in dict.fromkeys(_STATUS.values())},
            "best": _best(trials, settings.mode),
            "trials": trials,
        }
        write_json(study.folder / RESULTS, results)
    return results


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation of a sample; None: there is one value alone.

    >>> mean_and_spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def value_text(trial: Mapping[str, Any]) -> str:
    """The value of a trial, with its spread over the seeds.

    >>> value_text({"value": 0.5, "spread": 0.01}), value_text({"value": None, "spread": None})
    ('0.5 ± 0.01', '')
    """
    if trial["value"] is None:
        return ""
    spread = "" if trial["spread"] is None else f" ± {trial['spread']:.2g}"
    return f"{trial['value']:.6g}{spread}"


def print_results(results: Mapping[str, Any], folder: Path) -> None:
    """Prints the trials, the best first, and where the best one is."""
    settings = results["settings"]
    sign = 1 if settings["mode"] == "min" else -1
    order = list(_STATUS.values())

    def rank(trial: Mapping[str, Any]) -> tuple[int, float]:
        return order.index(trial["status"]), sign * (trial["value"] or 0.0)

    rows = [
        [
            str(trial["number"]),
            trial["status"],
            value_text(trial),
            point_text(trial["point"]),
            trial["reason"][:60],
        ]
        for trial in sorted(results["trials"], key=rank)
    ]
    print_table(("trial", "status", settings["metric"], "values", ""), rows, right=("trial",))
    if (best := results["best"]) is not None:
        configs = [str(folder / Path(each["folder"]).with_suffix(".yaml")) for each in best["runs"]]
        where = f"; its config: {configs[0]}" if configs else ""
        print(f"best: trial {best['number']}, {settings['metric']} {value_text(best)}{where}")


def point_text(point: Mapping[str, Any]) -> str:
    """The values of a trial on one line, keys without what contains them.

    >>> point_text({"model_params.hidden_dim": 16, "learning_rate": 0.00123456})
    'hidden_dim=16 learning_rate=0.001235'
    """
    return " ".join(
        f"{key.rpartition('.')[2]}={f'{value:.4g}' if isinstance(value, float) else value}"
        for key, value in point.items()
    )


def _trial(study: SweepStudy, frozen: FrozenTrial) -> dict[str, Any]:
    runs = frozen.user_attrs.get(RUNS, [])
    is_complete = frozen.state is TrialState.COMPLETE
    reached = [run["value"] for run in runs if run["value"] is not None]
    # A trial that somebody has added with Optuna has no runs.
    has_value = is_complete and reached
    value, spread = mean_and_spread(reached) if has_value else (frozen.value, None)
    return {
        "number": frozen.number,
        "status": _STATUS[frozen.state],
        "point": frozen.params,
        "value": value,
        "spread": spread,
        "reason": frozen.user_attrs.get(REASON, ""),
        "intermediate": {str(step): each for step, each in frozen.intermediate_values.items()},
        "runs": runs,
    }


def _best(trials: Sequence[Mapping[str, Any]], mode: str) -> Mapping[str, Any] | None:
    complete = [trial for trial in trials if trial["status"] == "complete"]
    best = min if mode == "min" else max
    return best(complete, key=lambda trial: trial["value"], default=None)
