"""What an input is to the rest: blocks of rows, from any row on, in the form that a model sees.

Knows no file format.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from aetheria.data.encoding import Cells, Encoding, TableEncoding, is_missing
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError, shown


class Input(Protocol):
    """Rows to predict for."""

    @property
    def num_rows(self) -> int | None:
        """How many there are; None: not known before the end."""
        ...

    @property
    def keys(self) -> Sequence[str] | None:
        """What names each row in the output, the path of a picture; None: nothing does."""
        ...

    def blocks(self, start: int, size: int) -> Iterator[Any]:
        """Yields the inputs of `size` rows each, but for the last block, from row `start` on.

        Raises:
            AetheriaError: a row is not like those of training; it is named.
        """
        ...

    def identity(self) -> JsonObject | None:
        """What tells it from another or a changed input; None: it cannot be read twice."""
        ...


class Expected(NamedTuple):
    """What a model was trained on.

    Attributes:
        encoding: how rows of a table or pictures become inputs; None: they are arrays.
        inputs: the shape and dtype of the inputs of one example [1, ...], or a mapping of such.
    """

    encoding: Encoding | None
    inputs: Any

    @property
    def table(self) -> TableEncoding | None:
        """The encoding, if the inputs were made of the columns of a table."""
        encoding = self.encoding
        return encoding if isinstance(encoding, TableEncoding) and encoding.columns else None

    @property
    def example_bytes(self) -> int:
        """The size in memory of the inputs of one example."""
        leaves = jax.tree.leaves(self.inputs)
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)

    def from_cells(self, cells: Cells, first_row: int, where: str) -> Any:
        """Makes inputs of rows of a table.

        Args:
            cells: column name -> cells.
            first_row: the number of the first row, for messages.
            where: the name of the input in messages.

        Raises:
            AetheriaError: a column is missing, or a cell is no number; row and column are named.
        """
        try:
            if self.table is not None:
                return self.table.encode(cells, first_row)
            if "inputs" in cells:
                return self._from_nested(cells["inputs"], first_row)
            return self._from_numbers(cells, first_row)
        except AetheriaError as error:
            raise AetheriaError(*(f"{where}, {line}" for line in error.problems)) from error

    def from_array(self, array: np.ndarray) -> Any:
        """Makes inputs of rows of an array: decoded pictures are resized, others stay."""
        return array if self.encoding is None else self.encoding.encode_inputs(array)

    def check_array(self, shape: Sequence[int], dtype: np.dtype, where: str) -> None:
        """Raises AetheriaError if an array [num_rows, ...] is not like the inputs of training."""
        if isinstance(self.inputs, Mapping):
            raise AetheriaError(
                f"{where}: expected the columns {', '.join(self.inputs)}, got one array; give a "
                ".npz file with inputs/NAME of each"
            )
        if self._are_pictures(shape, dtype):
            return
        if not shape or tuple(shape[1:]) != self.inputs.shape[1:]:
            dims = ", ".join(str(dim) for dim in ("num_rows", *self.inputs.shape[1:]))
            raise AetheriaError(
                f"{where}: expected inputs [{dims}], as in training, got {list(shape)}; give rows "
                "with these features"
            )
        if not np.can_cast(dtype, self.inputs.dtype, "same_kind"):
            raise AetheriaError(
                f"{where}: expected inputs of {self.inputs.dtype}, as in training, got {dtype}; "
                "convert them"
            )
        if not shape[0]:
            raise no_rows(where)

    def _are_pictures(self, shape: Sequence[int], dtype: np.dtype) -> bool:
        is_encoded = self.encoding is not None and not isinstance(self.encoding, TableEncoding)
        return is_encoded and dtype == np.uint8 and len(shape) == 4 and shape[0] > 0

    def _from_nested(self, rows: Sequence[Any], first_row: int) -> Any:
        """Inputs of nested lists, one for each row, as JSON and Parquet have them."""
        if isinstance(self.inputs, Mapping):
            for row, cell in enumerate(rows, first_row):
                if not isinstance(cell, Mapping) or cell.keys() != self.inputs.keys():
                    raise AetheriaError(
                        f"row {row}: expected inputs as a mapping of {', '.join(self.inputs)}, got "
                        f"{shown(cell)}; give the columns of training"
                    )
            return {
                name: _stack([row[name] for row in rows], spec, first_row)
                for name, spec in self.inputs.items()
            }
        return _stack(rows, self.inputs, first_row)

    def _from_numbers(self, cells: Cells, first_row: int) -> np.ndarray:
        """Inputs of columns of numbers, in their order."""
        shape = () if isinstance(self.inputs, Mapping) else self.inputs.shape[1:]
        if isinstance(self.inputs, Mapping) or math.prod(shape) != len(cells):
            raise AetheriaError(
                f"columns: expected {math.prod(shape)} columns of numbers, which make the inputs "
                f"{list(shape)} of training, got {len(cells)} ({', '.join(cells)[:100]}); leave "
                "out what is no input, or add what is missing"
            )
        columns = [_numbers(name, column, first_row) for name, column in cells.items()]
        stacked = np.stack(columns, axis=1).reshape(-1, *shape)
        return _cast(stacked, self.inputs.dtype, first_row)


def no_rows(where: str) -> AetheriaError:
    """The error for an input without rows."""
    return AetheriaError(f"{where}: expected rows to predict for, got none; give at least one")


def _numbers(name: str, cells: Sequence[Any], first_row: int) -> np.ndarray:
    """A column as f64 [num_rows]; raises AetheriaError for a cell that is no number."""
    try:
        return np.array([float(cell) for cell in cells])
    except (TypeError, ValueError, OverflowError) as error:
        for row, cell in enumerate(cells, first_row):
            try:
                float(cell)
            except (TypeError, ValueError, OverflowError):
                got = "nothing" if is_missing(cell) else shown(cell)
                raise AetheriaError(
                    f"column {name!r}: expected a number, as in training, got {got} in row {row}; "
                    "correct it"
                ) from error
        raise


def _stack(rows: Sequence[Any], spec: jax.ShapeDtypeStruct, first_row: int) -> np.ndarray:
    """Stacks the nested lists of rows as an array [num_rows, ...]."""
    arrays = []
    for row, cell in enumerate(rows, first_row):
        try:
            array = np.asarray(cell)
        except ValueError:
            array = np.zeros(0, object)
        if array.shape != spec.shape[1:] or array.dtype.kind not in "biuf":
            raise AetheriaError(
                f"row {row}: expected inputs of numbers {list(spec.shape[1:])}, as in training, "
                f"got {shown(cell)}; correct it"
            )
        arrays.append(array)
    return _cast(np.stack(arrays), spec.dtype, first_row)


def _cast(numbers: np.ndarray, dtype: np.dtype, first_row: int) -> np.ndarray:
    """Casts numbers that were read from text; raises AetheriaError if one loses its fraction."""
    with np.errstate(invalid="ignore", over="ignore"):
        cast = numbers.astype(dtype)
    if np.issubdtype(dtype, np.integer) and (odd := cast != numbers).any():
        place = np.unravel_index(int(np.argmax(odd)), odd.shape)
        raise AetheriaError(
            f"row {first_row + int(place[0])}: expected whole numbers of {dtype}, as in training, "
            f"got {numbers[place]:g}; correct it"
        )
    return cast
