"""The range of what a network was trained on, to notice inputs of another scale in prediction."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aetheria.data.sources import Source

_NUM_IN_MEMORY, _NUM_READ = 1024, 16  # examples of a split in memory, and of any other
_ROWS = 32  # in a read
# Beyond the range, this many times its width: new data may well lie outside, but not so far.
_WIDTHS_BEYOND = 1.0


def input_ranges(source: Source) -> dict[str, tuple[float, float]]:
    """Finds the smallest and the largest finite value of each column of floats that the network
    sees, in a sample spread over a split.
    """
    count = _NUM_IN_MEMORY if getattr(source, "in_memory", False) else _NUM_READ
    rows = np.linspace(0, len(source) - 1, min(len(source), count)).astype(np.int64)
    ranges: dict[str, tuple[float, float]] = {}
    for start in range(0, len(rows), _ROWS):
        for name, column in source.read(rows[start : start + _ROWS]).items():
            if name.partition("/")[0] != "inputs" or column.dtype.kind != "f":
                continue
            finite = column[np.isfinite(column)]
            if finite.size:
                low, high = ranges.get(name, (math.inf, -math.inf))
                ranges[name] = (min(low, float(finite.min())), max(high, float(finite.max())))
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
