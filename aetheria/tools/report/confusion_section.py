"""The part of a page about confusion matrices."""

from collections.abc import Sequence

from aetheria.observe.confusion import confusion_counts, confusion_table
from aetheria.observe.loggers.records import is_cell
from aetheria.tools.report.facts import RunFacts
from aetheria.tools.report.markup import Safe, join, table

_MAX_CLASSES = 100  # of a table that is still to be read


def confusion(runs: Sequence[RunFacts]) -> Safe:
    """The confusion matrix of each split at its last evaluation; empty where there is none."""
    parts = []
    for run in runs:
        splits: dict[str, dict[str, float]] = {}
        for (metric, split), curve in run.curves.items():
            if is_cell(metric) and len(curve.values):
                splits.setdefault(split, {})[metric] = float(curve.values[-1])
        for split, cells in splits.items():
            counts = confusion_counts(cells)
            if counts is not None and len(counts) <= _MAX_CLASSES:
                caption = f"Confusion matrix of {split}, {run.name}: a row for each true class"
                parts.append(table(caption, *confusion_table(counts, ())))
    return join(parts)
