"""What is checked of a dataset: on its arrays or a sample before anything compiles, and at reads.

A mistake is one line that names column, row and value.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from aetheria.data.columns import as_classes, as_column, cast_like, shape_text
from aetheria.data.forms import EVAL_FRACTION, hold_out, name_parts
from aetheria.data.sources import (
    ArraySource,
    DataSplits,
    RecordSource,
    Source,
    check_names,
    near_name,
)
from aetheria.errors import AetheriaError
from aetheria.model.classes import Classes
from aetheria.model.nesting import flat_columns

_NUM_SAMPLED = 16
_MAX_SAMPLED_BYTES = 256 << 20  # of records that lie in a list, which are all looked at
_BLOCK_BYTES = 4 << 20
_MISSING_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class CheckedData(NamedTuple):
    """A dataset that may be trained on.

    Attributes:
        splits: sources that check what they read.
        notes: lines that a user should see before the run.
    """

    splits: DataSplits
    notes: list[str]


def check_data(returned: Any, name: str, classes: Mapping[str, Classes]) -> CheckedData:
    """Makes splits of what a dataset's function returned, and checks them.

    One set without an evaluation split is split here, by a fixed seed.

    Args:
        returned: in a form that `aetheria.data.forms.name_parts` takes.
        name: of the dataset.
        classes: what the model says of columns that hold class numbers or tokens.

    Raises:
        AetheriaError: the data cannot be read as columns, the splits do not agree, or a column
            holds what is no class number.
    """
    _check_classes(classes)
    parts = name_parts(returned, name)
    checked: dict[str, Source] = {}
    notes: list[str] = []
    for where, source in parts.items():
        if where == "eval split" and source is parts["train split"]:
            checked[where] = checked["train split"]
            continue
        checked[where], found = check_source(where, source, classes)
        notes += found
    if "data" in checked:
        splits = hold_out(checked["data"], EVAL_FRACTION)
        notes.append(
            f"data: {name!r} has no evaluation split: {len(splits.eval)} of its "
            f"{len(checked['data'])} examples are held out, the same ones in every run"
        )
        return CheckedData(splits, notes)
    splits = DataSplits(train=checked["train split"], eval=checked["eval split"])
    _check_agreement(splits)
    return CheckedData(splits, notes)


def check_source(
    where: str, source: Source, classes: Mapping[str, Classes]
) -> tuple[Source, list[str]]:
    """Checks all of an `ArraySource`, or a sample of another source.

    Returns:
        A source whose class columns are whole numbers, and which checks each read; and lines that
        say where floats are not finite.

    Raises:
        AetheriaError: as for `check_data`.
    """
    _check_length(where, source)
    if type(source) is ArraySource:
        _check_columns(where, source.columns, classes)
        with located(where):
            fitted = _fit(source.columns, classes, None)
        changed = any(fitted[name] is not column for name, column in source.columns.items())
        checked: Source = ArraySource(fitted) if changed else source
    else:
        checked = CheckedSource(where, source, classes)
    return checked, _look(where, checked, sample_rows(source))


def sample_rows(source: Source) -> np.ndarray:
    """Which examples are looked at before a run: all of an `ArraySource`, or of a list of records
    of at most 256 MB; of any other source 16, evenly spaced, the first and the last among them.
    """
    size, everything = len(source), isinstance(source, ArraySource)
    if isinstance(source, RecordSource) and source.is_list:
        everything = size * _row_bytes(source) <= _MAX_SAMPLED_BYTES
    if everything or size <= _NUM_SAMPLED:
        return np.arange(size)
    return np.linspace(0, size - 1, _NUM_SAMPLED).astype(np.int64)


class CheckedSource:
    """Decorator of a source: each read has the columns, shapes and dtypes of row 0, as many rows as
    it was asked for, and class numbers where the model has classes.

    A read raises AetheriaError otherwise.

    Args:
        where: how messages call it, such as `train split`.
        source: what is read from.
        classes: what the model says of columns that hold class numbers or tokens.
    """

    def __init__(self, where: str, source: Source, classes: Mapping[str, Classes]):
        self._where, self._source, self._classes = where, source, classes
        self.in_memory = getattr(source, "in_memory", False)
        rows = np.zeros(1, np.int64)
        with located(where):
            columns = self._read(rows)
        _check_columns(where, columns, classes)
        with located(where):
            self._row = {n: c[0] for n, c in _fit(columns, classes, rows).items()}

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        with located(self._where):
            columns = _fit(self._read(indices), self._classes, indices)
            if columns.keys() != self._row.keys():
                raise AetheriaError(
                    f"row {indices[0]}: expected the columns of row 0 ({', '.join(self._row)}), "
                    f"got {', '.join(columns)}; give every example every column"
                )
            return {name: self._like_row_0(name, c, indices) for name, c in columns.items()}

    def _read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        columns = self._source.read(indices)
        if not isinstance(columns, Mapping):
            raise AetheriaError(
                f"{type(self._source).__name__}.read: expected a mapping of columns, got a "
                f"{type(columns).__name__}; return {{'inputs': …, 'labels': …}}"
            )
        columns = flat_columns(columns)
        arrays = {name: as_column(str(name), c, indices) for name, c in columns.items()}
        for name, array in arrays.items():
            if array.shape[:1] != indices.shape:
                got = f"{len(array)} of them" if array.ndim else "a scalar"
                raise AetheriaError(
                    f"column {name!r}: expected {len(indices)} rows for the indices from "
                    f"{indices[0]} to {indices[-1]}, got {got}; return one row for each index"
                )
        return arrays

    def _like_row_0(self, name: str, column: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if column.shape[1:] != self._row[name].shape:
            raise AetheriaError(
                f"column {name!r}: expected rows of shape {shape_text(self._row[name].shape)}, as "
                f"row 0 is, got {shape_text(column.shape[1:])} in row {indices[0]}; pad or cut the "
                "rows"
            )
        return cast_like(name, column, self._row[name].dtype, indices)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts `where` in front of the data's mistakes; a missing file is one of them."""
    try:
        with missing_file(where):
            yield
    except AetheriaError as error:
        raise AetheriaError(*(f"{where}, {problem}" for problem in error.problems)) from error


@contextmanager
def missing_file(where: str) -> Iterator[None]:
    """Makes an AetheriaError of a file that cannot be opened: it is named, no traceback needed."""
    try:
        yield
    except _MISSING_FILE as error:
        if error.filename is None:
            raise
        raise AetheriaError(
            f"{where}: expected a file that can be read, got {str(error.filename)!r} "
            f"({error.strerror}); check the path"
        ) from error


def _check_classes(classes: Any) -> None:
    right = isinstance(classes, Mapping) and all(
        isinstance(each, Classes) and isinstance(each.count, int) and each.count > 0
        for each in classes.values()
    )
    if not right:
        raise AetheriaError(
            "class_columns: expected column names and their aetheria.Classes, got "
            f"{str(classes)[:80]}; return {{'labels': Classes(10)}}, with at least one class"
        )


def _check_length(where: str, source: Source) -> None:
    try:
        size = len(source)
    except (TypeError, ValueError, OverflowError) as error:
        raise AetheriaError(
            f"{where}: expected a source with a length, got {type(source).__name__} ({error}); "
            "give it __len__, the number of examples"
        ) from error
    if not size:
        raise AetheriaError(
            f"{where}: expected examples, got none; check where they lie and what is left out"
        )


def _check_columns(
    where: str, columns: Mapping[str, np.ndarray], classes: Mapping[str, Classes]
) -> None:
    if not columns:
        raise AetheriaError(f"{where}: expected columns, got none; give inputs and labels")
    check_names(where, columns)
    for name, column in columns.items():
        if 0 in column.shape[1:]:
            raise AetheriaError(
                f"{where}, column {name!r}: expected values in every row, got rows of shape "
                f"{shape_text(column.shape[1:])}; leave the column out"
            )
    for name in classes:
        if name not in columns:
            raise AetheriaError(
                f"{where}, column {name!r}: expected by the model, got "
                f"{near_name(name, columns)}; rename or add the column"
            )


def _fit(
    columns: Mapping[str, np.ndarray], classes: Mapping[str, Classes], rows: Any
) -> dict[str, np.ndarray]:
    return {
        name: as_classes(name, column, classes[name], rows) if name in classes else column
        for name, column in columns.items()
    }


def _check_agreement(splits: DataSplits) -> None:
    """Raises AetheriaError if one compiled shape cannot serve both splits."""
    first = np.zeros(1, np.int64)
    train, held_out = splits.train.read(first), splits.eval.read(first)
    if train.keys() != held_out.keys():
        raise AetheriaError(
            f"eval split: expected the columns of the train split ({', '.join(train)}), got "
            f"{', '.join(held_out)}; give both splits the same columns"
        )
    for name, column in train.items():
        ours, theirs = (
            f"{c.dtype} rows of shape {shape_text(c.shape[1:])}" for c in (column, held_out[name])
        )
        if ours != theirs:
            raise AetheriaError(
                f"eval split, column {name!r}: expected {ours} as in the train split, got {theirs} "
                "in row 0; prepare both splits alike"
            )


def _look(where: str, source: Source, rows: np.ndarray) -> list[str]:
    """Reads rows, which checks them, and says where floats are not finite. That is no error:
    `on_nonfinite` is about such examples, and a model may mask them.
    """
    found: dict[str, tuple[int, int, float]] = {}
    for block in _blocks(rows, _row_bytes(source)):
        for name, column in source.read(block).items():
            if column.dtype.kind != "f" or (finite := np.isfinite(column)).all():
                continue
            place = np.unravel_index(int(np.argmin(finite)), finite.shape)
            count, row, value = found.get(name, (0, int(block[place[0]]), float(column[place])))
            found[name] = (count + int(finite.size - finite.sum()), row, value)
    among = "" if len(rows) == len(source) else f" in a sample of {len(rows)} rows"
    return [
        f"{where}, column {name!r}: {count} values are not finite{among}, the first is {value} in "
        f"row {row}; on_nonfinite says what becomes of such examples"
        for name, (count, row, value) in found.items()
    ]


def _row_bytes(source: Source) -> int:
    return sum(column.nbytes for column in source.read(np.zeros(1, np.int64)).values())


def _blocks(rows: np.ndarray, row_bytes: int) -> Iterator[np.ndarray]:
    size = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
