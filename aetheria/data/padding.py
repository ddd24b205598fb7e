"""Examples of different lengths, padded, with a column that marks what is real."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from aetheria.data.columns import as_column, cast_like, shape_text
from aetheria.data.forms import is_sequence_of, is_source
from aetheria.data.sources import Buckets, Columns, near_name
from aetheria.errors import AetheriaError, shown

# Reads rows: column name -> one value for each index, of different lengths.
ReadRows: TypeAlias = Callable[[np.ndarray], Mapping[str, Sequence[Any]]]
_NUM_LOOKED_AT = 64  # rows from which the dtype of a column is taken: the first may be empty


class Padded:
    """Decorator: a source whose columns of different lengths are padded.

    A global batch is as long as the smallest bucket that holds its longest example, so the step is
    compiled once for each bucket. A loss that is weighted by the column `mask` counts no padding:
    the shipped models weigh each position by `weight`.

    Args:
        source: columns as lists or object arrays, records with a length and an index, or an object
            with `__len__` and `read(indices)`, which returns column name -> one value for each
            index.
        buckets: the lengths that a batch may have, such as `[64, 128, 256]`.
        columns: the columns to pad; the values of one example have the same length in all of them.
        fill: what stands in the padding.
        mask: the column that is added, f32 [num_examples, length], 1 for a value and 0 for padding;
            None: none is.
        cut: cut longer examples off, instead of refusing them.
        lengths: the length of each example, [num_examples]: of several buckets, these decide before
            anything is read. None: they are those of the columns or records, if they are in memory.

    Attributes:
        buckets: what the feed cuts a global batch to; None: there is one bucket.

    Raises:
        AetheriaError: there is no such column, the buckets are none, or the lengths are not known.

    >>> source = Padded({"inputs": [[1, 2, 3], [4]]}, buckets=[4], columns=["inputs"])
    >>> rows = source.read(np.arange(2))
    >>> rows["inputs"].tolist(), rows["weight"].tolist()
    ([[1, 2, 3, 0], [4, 0, 0, 0]], [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    """

    def __init__(
        self,
        source: Any,
        *,
        buckets: Sequence[int],
        columns: Sequence[str] = ("inputs", "labels"),
        fill: float = 0,
        mask: str | None = "weight",
        cut: bool = False,
        lengths: Sequence[int] | np.ndarray | None = None,
    ):
        sizes = _check_buckets(buckets)
        if isinstance(columns, str) or not columns:
            raise AetheriaError(
                f"Padded, columns: expected names of columns, got {shown(columns)}; give a list"
            )
        self._size, self._rows, self.in_memory = _open(source)
        self._length, self._names, self._fill = sizes[-1], tuple(columns), fill
        self._mask, self._cut, self.buckets = mask, cut, None
        first = self._rows(np.arange(min(_NUM_LOOKED_AT, self._size)))
        for name in (*self._names, *([] if mask is None else [mask])):
            if (name in first) == (name == mask):
                got = "one" if name == mask else near_name(name, first)
                what = "no column" if name == mask else "a column"
                raise AetheriaError(
                    f"Padded: expected {what} {name!r}, got {got}; name the columns to pad in "
                    "columns, and in mask the one that is added"
                )
        self._dtypes = {name: self._dtype(name, first[name]) for name in self._names}
        if len(sizes) > 1:
            padded = self._names if mask is None else (*self._names, mask)
            self.buckets = Buckets(lengths=self._lengths(lengths), sizes=sizes, columns=padded)

    def __len__(self) -> int:
        return self._size

    def read(self, indices: np.ndarray) -> Columns:
        rows = self._rows(indices)
        values = {name: self._values(name, rows[name], indices) for name in self._names}
        lengths = self._agreed_lengths(values, indices)
        if self.buckets is not None:
            self._check_lengths(self.buckets, lengths, indices)
        columns: dict[str, Any] = {n: c for n, c in rows.items() if n not in self._names}
        for name, each in values.items():
            columns[name] = self._pad(name, each, lengths, indices)
        if self._mask is not None:
            columns[self._mask] = self._is_real(lengths).astype(np.float32)
        return columns

    def _agreed_lengths(
        self, values: Mapping[str, Sequence[np.ndarray]], indices: np.ndarray
    ) -> np.ndarray:
        """The lengths of some examples, i64 [num_rows], which all padded columns share."""
        first, *others = self._names
        lengths = np.array([len(value) for value in values[first]], np.int64)
        for name in others:
            found = np.array([len(value) for value in values[name]], np.int64)
            if (found != lengths).any():
                place = int((found != lengths).argmax())
                raise AetheriaError(
                    f"column {name!r}: expected as many values as {first!r} has in row "
                    f"{indices[place]} ({lengths[place]}), got {found[place]}; pad them alike, or "
                    "leave it out of the columns to pad"
                )
        return lengths

    def _lengths(self, given: Any) -> np.ndarray:
        """The length of every example, i64 [num_examples]."""
        if given is None and self.in_memory:
            given = [len(row) for row in self._rows(np.arange(self._size))[self._names[0]]]
        if given is None or np.shape(given) != (self._size,):
            got = "none" if given is None else f"an array of shape {shape_text(np.shape(given))}"
            raise AetheriaError(
                f"Padded, lengths: expected the length of each of the {self._size} examples, since "
                f"they decide on a bucket before the examples are read, got {got}; give lengths, "
                "or one bucket"
            )
        return np.asarray(given, np.int64)

    def _check_lengths(self, buckets: Buckets, found: np.ndarray, indices: np.ndarray) -> None:
        """Raises AetheriaError if a length is another than was said: the feed cuts by these."""
        said = np.minimum(buckets.lengths[indices], self._length)
        if (found != said).any():
            place = int((found != said).argmax())
            raise AetheriaError(
                f"Padded, lengths: expected {said[place]} values in row {indices[place]}, as "
                f"lengths says, got {found[place]}; give the length of every example"
            )

    def _is_real(self, lengths: np.ndarray) -> np.ndarray:
        return np.arange(self._length) < lengths[:, None]

    def _values(self, name: str, rows: Sequence[Any], indices: np.ndarray) -> list[np.ndarray]:
        values = [np.asarray(row) for row in rows]
        for index, value in zip(indices, values, strict=True):
            if not value.ndim:
                raise AetheriaError(
                    f"column {name!r}: expected rows of several values, got {shown(value.item())} "
                    f"in row {index}; leave it out of the columns to pad"
                )
            if len(value) > self._length and not self._cut:
                raise AetheriaError(
                    f"column {name!r}: expected at most {self._length} values, got {len(value)} in "
                    f"row {index}; use a larger bucket, or cut"
                )
        return [value[: self._length] for value in values]

    def _pad(
        self, name: str, values: list[np.ndarray], lengths: np.ndarray, indices: np.ndarray
    ) -> np.ndarray:
        dtype, inner = self._dtypes[name]
        filled = [value for value in values if len(value)]
        for index, value in zip(indices, values, strict=True):
            if len(value) and value.shape[1:] != inner:
                raise AetheriaError(
                    f"column {name!r}: expected values of shape {shape_text(inner)}, got "
                    f"{shape_text(value.shape[1:])} in row {index}; give all values one shape"
                )
        flat = np.concatenate(filled) if filled else np.zeros((0, *inner), dtype)
        padded = np.full((len(values), self._length, *inner), self._fill, flat.dtype)
        padded[self._is_real(lengths)] = flat
        return cast_like(name, as_column(name, padded, indices), dtype, indices)

    def _dtype(self, name: str, rows: Sequence[Any]) -> tuple[np.dtype, tuple[int, ...]]:
        """The dtype and the shape of a value: those of the first row that has one."""
        for row in rows:
            value = np.asarray(row)
            if value.ndim and len(value):
                return as_column(name, value).dtype, value.shape[1:]
        return np.dtype(np.float32), ()


def _check_buckets(buckets: Any) -> tuple[int, ...]:
    sizes = tuple(buckets) if isinstance(buckets, list | tuple) else ()
    is_whole = all(type(size) is int and size > 0 for size in sizes)
    if not sizes or not is_whole or list(sizes) != sorted({*sizes}):
        raise AetheriaError(
            f"Padded, buckets: expected rising lengths of at least 1, got {shown(buckets)}; use "
            "[64, 128, 256], or one length: [256]"
        )
    return sizes


def _open(source: Any) -> tuple[int, ReadRows, bool]:
    """The number of examples, what reads some of them, and whether that is a copy in memory."""
    if is_source(source):
        read_rows: Any = source.read  # of rows that may differ in length
        return len(source), read_rows, getattr(source, "in_memory", False)
    if isinstance(source, Mapping) and source:
        sizes = {name: len(column) for name, column in source.items()}
        if len(set(sizes.values())) > 1 or not any(sizes.values()):
            raise AetheriaError(
                f"Padded: expected columns of one length above 0, got {sizes}; give every example "
                "every column"
            )
        read = lambda indices: {n: [column[i] for i in indices] for n, column in source.items()}
        return next(iter(sizes.values())), read, True
    if is_sequence_of(source, Mapping) and len(source):
        names = [*source[0]]

        def read_records(indices: np.ndarray) -> dict[str, list[Any]]:
            records = [source[int(index)] for index in indices]
            return {name: [record[name] for record in records] for name in names}

        return len(source), read_records, isinstance(source, list | tuple)
    raise AetheriaError(
        f"Padded: expected columns, records or a source, got a {type(source).__name__}; give "
        "{'inputs': [[1, 2], [3]], …}"
    )
