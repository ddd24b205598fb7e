"""A source that checks every read, so that one model with constant shapes can train on it."""

from collections.abc import Mapping

import numpy as np

from aetheria.data.columns import Rows, as_classes, as_column, cast_like, shape_text
from aetheria.data.error_context import located
from aetheria.data.sources import (
    Columns,
    Source,
    buckets_of,
    check_names,
    identify,
    is_parallel,
    near_name,
)
from aetheria.errors import AetheriaError
from aetheria.model.classes import Classes
from aetheria.model.nesting import flat_columns


class CheckedSource:
    """Decorator: a source whose reads are checked.

    A read raises AetheriaError unless it returns one row for each index, with the columns, shapes
    and dtypes of row 0, and with class numbers in the columns that the model declares.

    Args:
        where: the name of the source in messages, such as `train split`.
        source: the source to read from.
        classes: the model's declarations of columns of class numbers or tokens, by column name.

    Raises:
        AetheriaError: row 0 cannot be read, or a column that the model declares is missing.
    """

    def __init__(self, where: str, source: Source, classes: Mapping[str, Classes]):
        self._where, self._source, self._classes = where, source, classes
        self.in_memory = getattr(source, "in_memory", False)
        self.parallel = is_parallel(source)
        self.buckets = buckets_of(source)
        rows = np.zeros(1, np.int64)
        with located(where):
            columns = self._read(rows)
        check_columns(where, columns, classes)
        with located(where):
            self._row = {n: c[0] for n, c in convert_classes(columns, classes, rows).items()}

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Columns:
        with located(self._where):
            columns = convert_classes(self._read(indices), self._classes, indices)
            if columns.keys() != self._row.keys():
                raise AetheriaError(
                    f"row {indices[0]}: expected the columns of row 0 ({', '.join(self._row)}), "
                    f"got {', '.join(columns)}; give every example every column"
                )
            return {name: self._like_row_0(name, c, indices) for name, c in columns.items()}

    def identify(self, indices: np.ndarray) -> bytes | None:
        return identify(self._source, indices)

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


def check_columns(where: str, columns: Columns, classes: Mapping[str, Classes]) -> None:
    """Checks the names and the shapes of columns.

    Raises:
        AetheriaError: there are no columns, a name is not allowed, a row has no values, or a column
            that the model declares is missing.
    """
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


def convert_classes(
    columns: Columns, classes: Mapping[str, Classes], rows: Rows
) -> dict[str, np.ndarray]:
    """Converts the columns that the model declares to class numbers; the others stay as they are.

    Raises:
        AetheriaError: a value is not a class number.
    """
    return {
        name: as_classes(name, column, classes[name], rows) if name in classes else column
        for name, column in columns.items()
    }
