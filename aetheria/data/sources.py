"""Sources: the contract of a dataset split, and the two sources that ship for any data."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from aetheria.data.columns import as_column, cast_like, shape_text
from aetheria.errors import AetheriaError
from aetheria.model.nesting import flat_columns

if TYPE_CHECKING:  # loaded with such data alone
    from aetheria.data.encoding import Encoding

# Column name -> [num_examples, ...].
Columns: TypeAlias = Mapping[str, np.ndarray]
# One example as a user gives it: column name -> number, array or nested list.
Record: TypeAlias = Mapping[str, object]


class Source(Protocol):
    """A dataset split: a number of examples that can be read in any order.

    Many examples are read at once, because reading them one by one would be too slow for a device.
    Reads come from other threads than the main one; from two at a time if both splits share data.

    Some attributes and a method are optional. If `in_memory` is True, a read is only a copy in
    memory, and the feed makes no thread to read ahead. If `parallel` is True, any number of threads
    may read at a time, in any order, as they may a source in memory; otherwise one thread reads a
    split in the order of training. `buckets` is of columns that are padded further than every
    global batch needs.
    `identify(indices) -> bytes` gives what tells these examples from others, where that is cheaper
    than to read them, such as names and sizes of files.
    """

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def read(self, indices: np.ndarray) -> Columns:
        """Reads examples.

        Args:
            indices: i64 [n], which examples, in any order, also repeated.

        Returns:
            Column name -> [n, ...]. Every read has the same columns, shapes of an example and
            dtypes.
        """
        ...


def is_parallel(source: Source) -> bool:
    """Whether several threads may read it at a time."""
    return bool(getattr(source, "parallel", getattr(source, "in_memory", False)))


def identify(source: Source, indices: np.ndarray) -> bytes | None:
    """What `source.identify` says; None: it has no such method, as most sources."""
    method = getattr(source, "identify", None)
    return None if method is None else method(indices)


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Lengths to which padded columns of a global batch are cut, all of them known beforehand.

    Attributes:
        lengths: i64 [num_examples], the length of each example before it was padded.
        sizes: the lengths to cut to, rising; the columns are padded to the last.
        columns: the padded columns.
    """

    lengths: np.ndarray
    sizes: tuple[int, ...]
    columns: tuple[str, ...]

    def cuts(self, indices: np.ndarray) -> dict[str, int]:
        """Column -> the smallest size that holds the longest of some examples."""
        longest = min(self.lengths[indices].max(), self.sizes[-1])
        return dict.fromkeys(self.columns, next(size for size in self.sizes if size >= longest))


def buckets_of(source: Source) -> Buckets | None:
    """What a source says of its padded columns; None: nothing, as most sources."""
    return getattr(source, "buckets", None)


@dataclass(frozen=True)
class DataSplits:
    """What a dataset's function returns: a split for training, and those for evaluation.

    The function may also give a split in one of the plain forms that
    `aetheria.data.forms.as_source` lists, such as a dict of arrays.

    Attributes:
        train: to train on.
        eval: to evaluate on; several by name, such as `{"val": …, "ood": …}`. `eval/loss` is the
            loss of the first of them; each has its own, such as `eval/ood/loss`.
        encoding: how `inputs` and `labels` were made of a table or of pictures; None: as they are.
        augment: changes each training example as it is read: (example, rng) -> example, where an
            example is a mapping from column names to arrays, and rng a NumPy generator that depends
            on the seed, the epoch and the example alone. None: they are read as they are.
        test: evaluated once, when the run completes; nothing is chosen by it. None: there is none.
    """

    train: Source
    eval: Source | Mapping[str, Source]
    encoding: "Encoding | None" = None
    augment: Callable[[Any, np.random.Generator], Any] | None = None
    test: Source | None = None

    @property
    def evals(self) -> dict[str, Source]:
        """The evaluation splits: `eval`, or `eval/<name>` of each of several."""
        if not isinstance(self.eval, Mapping):
            return {"eval": self.eval}
        if len(self.eval) == 1:
            return {"eval": next(iter(self.eval.values()))}
        return {f"eval/{name}": source for name, source in self.eval.items()}

    @property
    def tests(self) -> dict[str, Source]:
        """The test split as `test`, if there is one."""
        return {} if self.test is None else {"test": self.test}


class ArraySource:
    """Columns in memory.

    Args:
        columns: column name -> [num_examples, ...], an array or nested lists. A column may itself
            be a mapping of columns, such as `inputs` of several parts; the model is then given a
            mapping too. 64-bit numbers are stored as 32-bit ones, in which devices compute.

    Raises:
        AetheriaError: there are no columns or no examples, the lengths of the columns differ, or a
            column is ragged or does not consist of numbers.
    """

    in_memory = True

    def __init__(self, columns: Mapping[str, object]):
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
    def columns(self) -> Columns:
        """The whole columns; the caller must not change them."""
        return self._columns

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> Columns:
        return {name: column[indices] for name, column in self._columns.items()}


class RecordSource:
    """Records that are read one at a time.

    The first record determines the columns, and the shape and dtype of each. A column that only
    later records have is left out. A read raises AetheriaError, naming column and row, if a record
    has another shape, lacks a column, or has a number that the dtype cannot represent.

    Args:
        records: a Grain data source, or any sequence of mappings from column names to values.
        parallel: whether several threads may read records at a time; None: what the attribute
            `parallel` of the records says, else only if they are a list or belong to Grain, whose
            contract allows it.

    Raises:
        AetheriaError: it is not a sequence, it is empty, its first record is not a mapping of
            columns of numbers, or a column is named `mask`.
    """

    def __init__(self, records: Sequence[Record], parallel: bool | None = None):
        if isinstance(records, Mapping) or not hasattr(records, "__getitem__"):
            advice = "use ArraySource" if isinstance(records, Mapping) else "use list(…)"
            raise AetheriaError(
                "RecordSource: expected a sequence of records, with a length and an index, got a "
                f"{type(records).__name__}; {advice}"
            )
        if not len(records):
            raise AetheriaError("RecordSource: expected records, got none; check where they lie")
        if not isinstance(records[0], Mapping):
            raise _not_a_mapping(0, records[0])
        first = flat_columns(records[0])
        check_names("RecordSource", first)
        self._records = records
        if parallel is None:
            is_grain = type(records).__module__.partition(".")[0] == "grain"
            parallel = getattr(records, "parallel", self.is_list or is_grain) is True
        self.parallel = parallel
        self._first = {name: as_column(name, [first[name]])[0] for name in first}

    @property
    def is_list(self) -> bool:
        """Whether the records are in memory, so that reading one is only a lookup."""
        return isinstance(self._records, list | tuple)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> Columns:
        records = [_flat(self._records[int(index)]) for index in indices]
        return {name: self._stack(name, records, indices) for name in self._first}

    def _stack(self, name: str, records: Sequence[Record], rows: np.ndarray) -> np.ndarray:
        try:
            values = np.stack([np.asarray(record[name]) for record in records])
        except Exception:
            self._explain(name, records, rows)
            raise
        if values.shape[1:] != self._first[name].shape:
            self._explain(name, records, rows)
        column = as_column(name, values, rows)
        return cast_like(name, column, self._first[name].dtype, rows)

    def _explain(self, name: str, records: Sequence[Record], rows: np.ndarray) -> None:
        """Raises AetheriaError for the first record that differs from record 0, if there is one."""
        shape = self._first[name].shape
        for row, record in zip(rows, records, strict=True):
            if not isinstance(record, Mapping):
                raise _not_a_mapping(row, record)
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


def _flat(record: Record) -> Record:
    # A user's record may be something else than a mapping; `_explain` reports it.
    return flat_columns(record) if isinstance(record, Mapping) else record


def _not_a_mapping(row: int, record: object) -> AetheriaError:
    return AetheriaError(
        "RecordSource: expected records that are mappings of columns, got a "
        f"{type(record).__name__} in row {row}; give each as {{'inputs': …, 'labels': …}}"
    )


def near_name(name: str, names: Iterable[str]) -> str:
    """Lists the names for an error message, with a suggestion if one is similar to `name`.

    >>> near_name("labels", ["inputs", "label"])
    "columns inputs, label; did you mean 'label'?"
    """
    known = [str(each) for each in names]
    near = difflib.get_close_matches(name, known, n=1)
    listed = f"columns {', '.join(known)}" if known else "no columns"
    return f"{listed}; did you mean {near[0]!r}?" if near else listed


def check_names(source: str, names: Iterable[object]) -> None:
    """Raises AetheriaError if a column is named `mask`, or its name is not text."""
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
