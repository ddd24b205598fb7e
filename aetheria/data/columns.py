"""Makes one column of a dataset an array of numbers; an error names the row and the value.

This file knows nothing of splits, batches and models.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from aetheria.errors import AetheriaError
from aetheria.model.classes import Classes

# The row numbers of some values, for error messages; None: 0, 1, 2, …
Rows: TypeAlias = "Sequence[int] | np.ndarray | None"
_NARROWER = {"int64": np.int32, "uint64": np.uint32}
_UNSUPPORTED_KINDS = "OUSMmc"  # the kinds of dtypes that a training step cannot compute with


def as_column(name: str, values: object, rows: Rows = None) -> np.ndarray:
    """Makes an array whose numbers have at most 32 bits, as devices compute with.

    Args:
        name: the name of the column.
        values: an array of any library, or nested lists, with one value for each example.
        rows: the row numbers of the values.

    Returns:
        [num_examples, ...]; [] for a scalar.

    Raises:
        AetheriaError: the values are ragged, not numbers, or do not fit 32 bits.

    >>> as_column("inputs", [[0.5, 1.0]])
    array([[0.5, 1. ]], dtype=float32)
    """
    array = _as_array(name, values)
    if array.dtype.kind in _UNSUPPORTED_KINDS or array.dtype.type is np.void:
        raise _unsupported(name, array, rows)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float32)
        lost = np.isinf(narrow)
        if lost.any() and (lost := lost & np.isfinite(array)).any():
            raise AetheriaError(
                f"column {name!r}: expected numbers that fit float32 (at most 3.4e+38), got "
                f"{first_where(lost, array, rows)}; scale the column"
            )
        return narrow
    narrow = array.astype(_NARROWER.get(array.dtype.name, array.dtype), copy=False)
    if narrow is not array and (lost := narrow != array).any():
        # Wrapped around, an identifier would silently become another one.
        raise AetheriaError(
            f"column {name!r}: expected whole numbers of 32 bits, got "
            f"{first_where(lost, array, rows)}; leave the column out or renumber it"
        )
    return narrow


def cast_like(name: str, array: np.ndarray, dtype: np.dtype, rows: Rows) -> np.ndarray:
    """Casts rows to the dtype of row 0.

    Args:
        name: the name of the column.
        array: [num_rows, ...].
        dtype: the dtype of row 0.
        rows: the row numbers.

    Raises:
        AetheriaError: the cast would change a number, such as 0.5 to a whole number. Rounding to a
            shorter float is allowed.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
    is_float = dtype.kind == "f"
    lost = np.isinf(cast) & np.isfinite(array) if is_float else cast != array
    if not lost.any():
        return cast
    raise AetheriaError(
        f"column {name!r}: expected {dtype} as in row 0, got {array.dtype} "
        f"{first_where(lost, array, rows)}; give every row one dtype"
    )


def as_classes(name: str, array: np.ndarray, classes: Classes, rows: Rows) -> np.ndarray:
    """Converts a column to class numbers, if its meaning is unambiguous, and checks their range.

    Besides whole numbers it accepts floats without a fraction, bool if there are two classes, and a
    trailing dim of size 1 that the model does not expect.

    Args:
        name: the name of the column.
        array: [num_examples, ...].
        classes: the model's declaration of the column.
        rows: the row numbers of the values.

    Returns:
        Whole numbers [num_examples, *classes.shape]; `array` itself if nothing has to be changed.

    Raises:
        AetheriaError: a value is not a class number, or the shape differs from the declared one.
    """
    expected = f"column {name!r}: expected class numbers from 0 to {classes.count - 1}"
    array = _squeeze(expected, array, classes)
    if array.dtype.kind == "b":
        if classes.count != 2:
            raise AetheriaError(
                f"{expected}, got bool ({first_where(np.ones(array.shape, bool), array, rows)}); "
                "bool is taken for two classes: set the model's number of classes to 2, or give "
                "whole numbers"
            )
        return array.astype(np.int32)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            broken = ~(np.floor(array) == array)  # true of NaN
        broken |= np.isinf(array)
        if broken.any():
            raise AetheriaError(
                f"{expected}, got {first_where(broken, array, rows)}; give whole numbers, or "
                "leave these rows out"
            )
    outside = (array.min() < 0 or array.max() >= classes.count) if array.size else False
    if outside:
        found = first_where((array < 0) | (array >= classes.count), array, rows)
        raise AetheriaError(
            f"{expected}, got {found}; number the classes from 0, or change the model's number "
            "of classes"
        )
    return array.astype(np.int32) if array.dtype.kind == "f" else array


def first_where(chosen: np.ndarray, array: np.ndarray, rows: Rows) -> str:
    """The first chosen value and its row, as error messages write them: `10 in row 700`.

    Args:
        chosen: bool, of the shape of `array`; at least one value is chosen.
        array: [num_rows, ...].
        rows: the row numbers.
    """
    place = np.unravel_index(int(np.argmax(chosen)), chosen.shape)
    value = array[place]
    if isinstance(value, np.generic):
        value = value.item()
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    text = text if len(text) <= 40 else f"{text[:40]}…"
    if not place:
        return text
    row = int(place[0]) if rows is None else int(rows[int(place[0])])
    return f"{text} in row {row}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape as error messages write it: `[28, 28, 1]`; that of a scalar: `[] (one number)`."""
    return str([*shape]) if len(shape) else "[] (one number)"


def _as_array(name: str, values: object) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray):
        raise AetheriaError(
            f"column {name!r}: expected numbers, got a masked array; fill it, or leave rows out"
        )
    if isinstance(values, Mapping | set) or hasattr(values, "__next__"):
        raise AetheriaError(
            f"column {name!r}: expected an array, got a {type(values).__name__}; give one value "
            "an example, in order"
        )
    try:
        return np.asarray(values)
    except Exception as error:  # arrays of other libraries raise errors of any type
        reason = _find_odd_row(values) or f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise AetheriaError(
            f"column {name!r}: expected rows of one shape, got {reason}; pad or cut the rows"
        ) from error


def _find_odd_row(values: Any) -> str | None:
    """Describes the first row whose shape differs from that of row 0; None: there is none."""
    first: tuple[int, ...] | None = None
    try:
        for row, value in enumerate(values):
            shape = _shape(value)
            if shape is None:
                return f"row {row}, which is ragged itself"
            first = shape if first is None else first
            if shape != first:
                return f"{shape_text(shape)} in row {row} after {shape_text(first)} in row 0"
    except Exception:  # the values cannot be iterated over: the caller reports its own error
        return None
    return None


def _shape(value: ArrayLike) -> tuple[int, ...] | None:
    """The shape of a value; None if it is ragged."""
    try:
        return np.shape(value)
    except ValueError:
        return None


def _unsupported(name: str, array: np.ndarray, rows: Rows) -> AetheriaError:
    kind, advice = str(array.dtype), "convert them in the dataset"
    if array.dtype.kind == "c":
        advice = "give the real and the imaginary part as channels or as two columns"
    if array.dtype.names:
        kind, advice = "a structured array", "give each of its fields as a column"
    chosen = np.ones(array.shape, bool)
    if array.dtype.kind == "O" and array.size:
        wrong = [not isinstance(v, int | float | np.number) for v in array.ravel()]
        chosen = np.array(wrong).reshape(array.shape) if any(wrong) else chosen
    if array.dtype.kind in "UST" or (array.size and isinstance(array[chosen][0], str)):
        advice = (
            "give class numbers, as np.unique(texts, return_inverse=True) makes them, or read a "
            "table of numbers and texts with aetheria.read_table"
        )
    where = f" ({first_where(chosen, array, rows)})" if array.size else ""
    return AetheriaError(f"column {name!r}: expected numbers, got {kind}{where}; {advice}")


def _squeeze(expected: str, array: np.ndarray, classes: Classes) -> np.ndarray:
    """Drops a trailing dim of size 1 that the model does not expect; checks the shape."""
    shape = array.shape[1:]
    if classes.shape is None or shape == classes.shape:
        return array
    if shape == (*classes.shape, 1):
        return array[..., 0]
    one_hot = shape == (*classes.shape, classes.count)
    advice = "use labels.argmax(-1)" if one_hot else "give one class number where the model has one"
    raise AetheriaError(
        f"{expected}, of shape {shape_text(classes.shape)} an example, got "
        f"{'one-hot ' if one_hot else ''}rows of shape {shape_text(shape)} (row 0: "
        f"{' '.join(np.array2string(array[0], threshold=6, edgeitems=2).split())}); {advice}"
    )
