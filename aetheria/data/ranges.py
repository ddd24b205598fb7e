"""The range of what a network was trained on, to notice inputs of another scale in prediction."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aetheria.data.sources import Source

_MAX_BYTES = 16 << 20  # of a sample in memory
_NUM_READ = 16  # examples of any other split
# Beyond the range, this many times its width: new data may well lie outside, but not so far.
_WIDTHS_BEYOND = 1.0


def input_ranges(source: Source) -> dict[str, tuple[float, float]]:
    """Finds the smallest and the largest finite value of each column of floats that the network
    sees, in a sample spread over a split.
    """
    size, count = len(source), _NUM_READ
    if getattr(source, "in_memory", False):
        example = source.read(np.zeros(1, np.int64))
        count = _MAX_BYTES // max(1, sum(column.nbytes for column in example.values()))
    rows = np.linspace(0, size - 1, min(size, max(count, 1))).astype(np.int64)
    ranges = {}
    for name, column in source.read(rows).items():
        if name.partition("/")[0] != "inputs" or column.dtype.kind != "f":
            continue
        finite = column[np.isfinite(column)]
        if finite.size:
            ranges[name] = (float(finite.min()), float(finite.max()))
    return ranges


def out_of_range(inputs: Any, ranges: Mapping[str, tuple[float, float]]) -> str | None:
    """Says in one line that inputs lie far outside the range of training; None: they do not.

    >>> out_of_range(np.array([[0.0, 16.0]]), {"inputs": (0.0, 1.0)})
    'inputs: expected values like those of training, from 0 to 1, got 0 to 16; ...'
    """
    for name, (low, high) in ranges.items():
        column = inputs
        for part in name.split("/")[1:]:
            column = column[part]
        values = np.asarray(column)
        beyond = _WIDTHS_BEYOND * max(high - low, abs(high), abs(low))
        if values.size and not (values.min() >= low - beyond and values.max() <= high + beyond):
            if np.isnan(values).any():
                continue  # said by the answer itself
            return (
                f"{name}: expected values like those of training, from {low:g} to {high:g}, got "
                f"{values.min():g} to {values.max():g}; scale them as the dataset does"
            )
    return None
