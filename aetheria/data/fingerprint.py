"""The fingerprint of a split: its size, its columns, and digests of a fixed sample of its rows.

A run takes it at every start, so its cost is bounded: two passes over `_NUM_PARTS` reads.
"""

import hashlib
import itertools
from typing import Any

import numpy as np

from aetheria.data.sources import Source, identify

_NUM_PARTS = 64
_MAX_BYTES = 8 << 20  # read from a split in memory; sha256 digests about 1.5 GB/s


def fingerprint(source: Source) -> dict[str, Any]:
    """Takes the fingerprint of a split.

    The sample consists of parts spread over the split, the first and the last row among them. A
    part of a source in memory is a range of rows; if all rows together are at most `_MAX_BYTES`,
    the parts cover every row. So do they if the source identifies examples without reading them.
    A part of any other source is one example. If a second read gives other values, as with random
    augmentation, there are no digests.

    Returns:
        JSON values: `num_examples`; `columns`, name -> dtype and shape; `parts`, a list of [first
        row, row after the last, digest]; `random`, whether the second read differed.
    """
    size = len(source)
    example = source.read(np.zeros(1, np.int64))
    columns = {name: f"{c.dtype}{list(c.shape[1:])}" for name, c in example.items()}
    ranges = _ranges(source, size, sum(column.nbytes for column in example.values()))
    first = [_digest(source, *part) for part in ranges]
    is_random = first != [_digest(source, *part) for part in ranges]
    parts = [] if is_random else [[*part, d] for part, d in zip(ranges, first, strict=True)]
    return {"num_examples": size, "columns": columns, "parts": parts, "random": is_random}


def _ranges(source: Source, size: int, example_bytes: int) -> list[tuple[int, int]]:
    """Up to `_NUM_PARTS` ranges of rows; the first begins at row 0, the last ends at the end."""
    num_parts = min(_NUM_PARTS, size)
    bounds = [size * n // num_parts for n in range(num_parts + 1)]
    rows = 1
    if identify(source, np.zeros(1, np.int64)) is not None:
        rows = size
    elif getattr(source, "in_memory", False):
        rows = max(1, _MAX_BYTES // max(1, num_parts * example_bytes))
    ranges = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        length = min(rows, stop - start)
        # The first range lies at the start of its bounds, the last at the end of its own, and those
        # between in proportion: so the sample has the first and the last row of the split.
        start += (stop - start - length) * number // max(1, num_parts - 1)
        ranges.append((start, start + length))
    return ranges


def _digest(source: Source, start: int, stop: int) -> str:
    indices = np.arange(start, stop)
    total = hashlib.sha256(said := identify(source, indices) or b"")
    if said:
        return total.hexdigest()[:16]
    for name, column in sorted(source.read(indices).items()):
        total.update(f"{name}{column.dtype}{column.shape}".encode())
        total.update(np.ascontiguousarray(column).view(np.uint8).data)
    return total.hexdigest()[:16]
