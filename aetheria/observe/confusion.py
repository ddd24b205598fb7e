"""The confusion matrix among the metrics of an evaluation. Knows no logger and no page."""

from collections.abc import Mapping, Sequence

import numpy as np

from aetheria.observe.loggers.records import CELL
from aetheria.observe.pictures import as_bytes

_PIXELS = 256  # of a side of its picture, about


def confusion_counts(metrics: Mapping[str, float]) -> np.ndarray | None:
    """The counts f64 [true class, predicted class]; None: the metrics have no confusion matrix.

    >>> cells = {"confusion_0_0": 5.0, "confusion_0_1": 1.0, "confusion_1_0": 0.0}
    >>> confusion_counts({"loss": 0.5, **cells, "confusion_1_1": 2.0}).tolist()
    [[5.0, 1.0], [0.0, 2.0]]
    """
    found = {match: value for name, value in metrics.items() if (match := CELL.fullmatch(name))}
    if not found:
        return None
    places = {tuple(map(int, match.groups())): value for match, value in found.items()}
    counts = np.zeros([1 + max(max(place) for place in places)] * 2)
    for place, value in places.items():
        counts[place] = value
    return counts


def confusion_table(
    counts: np.ndarray, classes: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """The headers and the rows of a confusion matrix, a row for each true class.

    >>> confusion_table(np.array([[5.0, 1.0], [0.0, 2.0]]), ["no", "yes"])
    (['true \\\\ predicted', 'no', 'yes'], [['no', '5', '1'], ['yes', '0', '2']])
    """
    names = [classes[each] if each < len(classes) else str(each) for each in range(len(counts))]
    rows = [[name, *(f"{c:g}" for c in row)] for name, row in zip(names, counts, strict=True)]
    return ["true \\ predicted", *names], rows


def draw_confusion(counts: np.ndarray) -> np.ndarray:
    """Draws the share of each true class (row) that is taken for each class (column): u8 [side,
    side, 1], black for all of it.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    cell = np.ones([max(1, _PIXELS // len(counts))] * 2)
    return as_bytes(np.kron(1 - shares, cell))[..., None]
