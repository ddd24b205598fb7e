"""The printed form of an evaluation: rows of a table, a confusion matrix, and JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aetheria.observe.confusion import confusion_counts, confusion_table
from aetheria.observe.loggers.records import is_cell
from aetheria.tools.evaluate.evaluation import Evaluated

_MAX_CLASSES = 12  # in a matrix on a terminal of 120 columns


def metric_rows(evaluated: Evaluated) -> list[list[str]]:
    """A row for each metric but the cells of a confusion matrix: its name, its value, and what
    the run recorded.
    """
    return [
        [name, _number(value), _number(evaluated.recorded.get(name))]
        for name, value in evaluated.metrics.items()
        if not is_cell(name)
    ]


def confusion_matrix(
    metrics: Mapping[str, float], classes: Sequence[str]
) -> tuple[list[str], list[list[str]]] | None:
    """The headers and the rows of a confusion matrix, a row for each true class.

    None: there is none, or it is too wide for a terminal.

    >>> cells = {"confusion_0_0": 5.0, "confusion_0_1": 1.0}
    >>> confusion_matrix({**cells, "confusion_1_0": 0.0, "confusion_1_1": 2.0}, ["no", "yes"])
    (['true \\\\ predicted', 'no', 'yes'], [['no', '5', '1'], ['yes', '0', '2']])
    """
    counts = confusion_counts(metrics)
    if counts is None or len(counts) > _MAX_CLASSES:
        return None
    return confusion_table(counts, classes)


def as_json(evaluated: Evaluated) -> dict[str, Any]:
    """What `--json` prints and `--output` holds; a metric that is not finite is null."""
    return {
        "snapshot": str(evaluated.snapshot),
        "step": evaluated.step,
        "averaged": evaluated.averaged,
        "num_examples": {split: each.num_examples for split, each in evaluated.splits.items()},
        "metrics": {
            name: value if math.isfinite(value) else None
            for name, value in evaluated.metrics.items()
        },
        "classes": list(evaluated.classes),
    }


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if math.isfinite(value) else "not finite"
