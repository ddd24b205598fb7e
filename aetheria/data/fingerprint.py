"""A fingerprint of a split: how many examples, of which columns, and digests of a fixed sample.

It is taken at every start of a run, so its cost is bounded: `_NUM_PARTS` reads, twice.
"""

import hashlib
import itertools
from typing import Any

import numpy as np

from aetheria.data.sources import Source

_NUM_PARTS = 64
_MAX_BYTES = 8 << 20  # of a split in memory; sha256 takes 1.5 GB/s


def fingerprint(source: Source) -> dict[str, Any]:
    """Takes the fingerprint of a split.

    Of a source in memory every part is a range of rows, which together are all of it where that is
    at most `_MAX_BYTES`; of any other source a part is one example. The first and the last row are
    among them. A source that gives another value at a second read (random augmentation) has no
    digests.

    Returns:
        JSON values: `num_examples`; `columns`: name -> dtype and shape; `parts`: a list of first
        row, row behind the last, digest; `random`: whether a second read differed.
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
    """Up to `_NUM_PARTS` ranges, the first from row 0 on, the last up to the end."""
    num_parts = min(_NUM_PARTS, size)
    bounds = [size * n // num_parts for n in range(num_parts + 1)]
    rows = 1
    if getattr(source, "in_memory", False):
        rows = max(1, _MAX_BYTES // max(1, num_parts * example_bytes))
    ranges = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        length = min(rows, stop - start)
        # Spread evenly from the first row of the first range to the last row of the last.
        start += (stop - start - length) * number // max(1, num_parts - 1)
        ranges.append((start, start + length))
    return ranges


def _digest(source: Source, start: int, stop: int) -> str:
    total = hashlib.sha256()
    for name, column in sorted(source.read(np.arange(start, stop)).items()):
        total.update(f"{name}{column.dtype}{column.shape}".encode())
        total.update(np.ascontiguousarray(column).view(np.uint8).data)
    return total.hexdigest()[:16]
