"""Random-access sources: anything with a length that yields the columns at given indices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetheria.errors import AetheriaError


class Source(Protocol):
    """A dataset split. Reading is by many indices at once: that is what keeps a device fed."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Reads examples `indices` i64 [n]: column name -> [n, ...]."""
        ...


@dataclass(frozen=True)
class DataSplits:
    """What a registered dataset returns: the split to train on, and the one to evaluate on."""

    train: Source
    eval: Source


class ArraySource:
    """Columns held in memory, column name -> [num_examples, ...].

    `in_memory` tells that reading needs no thread of its own; other sources need not have it.
    64-bit numbers are stored as 32-bit ones, which is what devices compute in.

    Raises:
        AetheriaError: no columns, no examples, or columns of different lengths.
    """

    in_memory = True

    def __init__(self, columns: Mapping[str, Any]):
        self._columns = {name: _as_32_bit(name, np.asarray(c)) for name, c in columns.items()}
        lengths = {n: len(c) if c.ndim else 0 for n, c in self._columns.items()}
        if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise AetheriaError(
                f"ArraySource: expected columns of one length above 0, got {lengths}; "
                "give every example every column"
            )
        _check_names("ArraySource", lengths)
        self._length = len(next(iter(self._columns.values())))

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        return {name: column[indices] for name, column in self._columns.items()}


class RecordSource:
    """Records read one at a time: a Grain data source, or any sequence of column mappings.

    Raises:
        AetheriaError: no records, or a column that is named `mask`.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        if not len(records):
            raise AetheriaError("RecordSource: expected records, got none; check where they lie")
        _check_names("RecordSource", records[0])
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        records = [self._records[int(index)] for index in indices]
        return {
            name: _as_32_bit(name, np.stack([np.asarray(record[name]) for record in records]))
            for name in records[0]
        }


def _check_names(source: str, names: Iterable[str]) -> None:
    if "mask" in names:
        raise AetheriaError(
            f"{source}: expected no column named 'mask', got one; that name is for padding, "
            "call yours 'weight'"
        )


def _as_32_bit(name: str, array: np.ndarray) -> np.ndarray:
    """Narrows, but never to other numbers: an identifier that wraps around would be another."""
    if array.dtype.kind in "OUSMm":
        raise AetheriaError(
            f"column {name!r}: expected numbers, got {array.dtype}; convert them in the dataset"
        )
    narrower = {"float64": np.float32, "int64": np.int32, "uint64": np.uint32}
    narrow = array.astype(narrower.get(array.dtype.name, array.dtype), copy=False)
    if array.dtype.kind in "iu" and narrow is not array and not np.array_equal(narrow, array):
        raise AetheriaError(
            f"column {name!r}: expected whole numbers of 32 bits, got {array.dtype} beyond them; "
            "leave the column out or renumber it"
        )
    return narrow
