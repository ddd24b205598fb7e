"""Random-access sources: anything with a length that yields the columns at given indices."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetheria.data.columns import as_column, cast_like, shape_text
from aetheria.errors import AetheriaError
from aetheria.model.nesting import flat_columns


class Source(Protocol):
    """A dataset split. Reading is by many indices at once: that is what keeps a device fed."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Reads examples `indices` i64 [n]: column name -> [n, ...]."""
        ...


@dataclass(frozen=True)
class DataSplits:
    """What a registered dataset returns: the split to train on, and the one to evaluate on.

    From a dataset's function, a split may also be given in the plain forms that
    `aetheria.data.forms.as_source` lists, such as a dict of arrays.
    """

    train: Source
    eval: Source


class ArraySource:
    """Columns held in memory, column name -> [num_examples, ...]. A column may be a mapping of
    columns in its turn: `inputs` of several parts, which the model is given as such.

    `in_memory` tells that reading needs no thread of its own; other sources need not have it.
    64-bit numbers are stored as 32-bit ones, which is what devices compute in.

    Raises:
        AetheriaError: no columns, no examples, columns of different lengths, or a column that is
            ragged or not of numbers.
    """

    in_memory = True

    def __init__(self, columns: Mapping[str, Any]):
        if not isinstance(columns, Mapping):
            raise AetheriaError(
                f"ArraySource: expected a mapping of columns, got a {type(columns).__name__}; "
                "give {'inputs': …, 'labels': …}"
            )
        columns = flat_columns(columns)
        check_names("ArraySource", columns)
        self._columns = {name: as_column(name, column) for name, column in columns.items()}
        lengths = {n: len(c) if c.ndim else "a scalar" for n, c in self._columns.items()}
        if len(set(lengths.values())) != 1 or not {0, "a scalar"}.isdisjoint(lengths.values()):
            raise AetheriaError(
                f"ArraySource: expected columns of one length above 0, got {lengths}; "
                "give every example every column"
            )
        self._length = len(next(iter(self._columns.values())))

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """The whole columns; not to be written to."""
        return self._columns

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        return {name: column[indices] for name, column in self._columns.items()}


class RecordSource:
    """Records read one at a time: a Grain data source, or any sequence of column mappings.

    The first record says which columns there are, and each one's shape and dtype. A read raises
    AetheriaError, naming column and row, where a record has another shape, lacks a column, or holds
    a number that the dtype does not; further columns of a record are left out.

    Raises:
        AetheriaError: not a sequence, no records, a first record that is not a mapping of columns
            of numbers, or a column that is named `mask`.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        if isinstance(records, Mapping) or not hasattr(records, "__getitem__"):
            advice = "use ArraySource" if isinstance(records, Mapping) else "use list(…)"
            raise AetheriaError(
                "RecordSource: expected a sequence of records, with a length and an index, got a "
                f"{type(records).__name__}; {advice}"
            )
        if not len(records):
            raise AetheriaError("RecordSource: expected records, got none; check where they lie")
        if not isinstance(records[0], Mapping):
            raise _no_mapping(0, records[0])
        first = flat_columns(records[0])
        check_names("RecordSource", first)
        self._records = records
        self._first = {name: as_column(name, [first[name]])[0] for name in first}

    @property
    def is_list(self) -> bool:
        """Whether reading a record is no more than looking it up."""
        return isinstance(self._records, list | tuple)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        records = [_flat(self._records[int(index)]) for index in indices]
        return {name: self._stack(name, records, indices) for name in self._first}

    def _stack(self, name: str, records: list[Any], rows: np.ndarray) -> np.ndarray:
        try:
            values = np.stack([np.asarray(record[name]) for record in records])
        except Exception:
            self._explain(name, records, rows)
            raise
        if values.shape[1:] != self._first[name].shape:
            self._explain(name, records, rows)
        column = as_column(name, values, rows)
        return cast_like(name, column, self._first[name].dtype, rows)

    def _explain(self, name: str, records: list[Any], rows: np.ndarray) -> None:
        """Raises AetheriaError for the first record that is not like record 0."""
        shape = self._first[name].shape
        for row, record in zip(rows, records, strict=True):
            if not isinstance(record, Mapping):
                raise _no_mapping(row, record)
            if name not in record:
                raise AetheriaError(
                    f"column {name!r}: expected in every record, got row {row} without it "
                    f"({near_name(name, record)}); give every record every column"
                )
            found = as_column(name, [record[name]], [row]).shape[1:]
            if found != shape:
                raise AetheriaError(
                    f"column {name!r}: expected rows of shape {shape_text(shape)}, as row 0 is, "
                    f"got {shape_text(found)} in row {row}; pad or cut the rows, or leave it out"
                )


def _flat(record: Any) -> Any:
    """What is no mapping is explained where a column of it is missing."""
    return flat_columns(record) if isinstance(record, Mapping) else record


def _no_mapping(row: int, record: Any) -> AetheriaError:
    return AetheriaError(
        "RecordSource: expected records that are mappings of columns, got a "
        f"{type(record).__name__} in row {row}; give each as {{'inputs': …, 'labels': …}}"
    )


def near_name(name: str, names: Iterable[str]) -> str:
    """Says which names there are, and the one that is meant if one is near.

    >>> near_name("labels", ["inputs", "label"])
    "columns inputs, label; did you mean 'label'?"
    """
    said = [str(known) for known in names]
    near = difflib.get_close_matches(name, said, n=1)
    listed = f"columns {', '.join(said)}" if said else "no columns"
    return f"{listed}; did you mean {near[0]!r}?" if near else listed


def check_names(source: str, names: Iterable[Any]) -> None:
    """Raises AetheriaError if a column is named `mask`, or by what is no text."""
    for name in names:
        if not isinstance(name, str):
            raise AetheriaError(
                f"{source}: expected names of columns as text, got {name!r}; rename the column"
            )
        if name == "mask":
            raise AetheriaError(
                f"{source}: expected no column named 'mask', got one; that name is for padding, "
                "call yours 'weight'"
            )
