"""Tensors of the Open Inference Protocol, version 2, as NumPy arrays. Knows neither models nor
HTTP; nothing here is ever unpickled.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from aetheria.errors import shown
from aetheria.tools.serve.errors import RequestError

DATATYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_FLOATS = ("FP16", "FP32", "FP64", "BF16")
_MAX_DIMS, _MAX_ELEMENTS = 16, 2**31
_LENGTH = struct.Struct("<I")  # before each element of BYTES


@dataclass(frozen=True)
class Tensor:
    """A named array.

    Attributes:
        name: of the input or output.
        datatype: a key of `DATATYPES`.
        array: the elements; of BYTES, objects: `bytes` from binary data, `str` from JSON.
        has_null: whether an element was null; it is NaN here, and None among BYTES.
    """

    name: str
    datatype: str
    array: np.ndarray
    has_null: bool = False


def datatype_of(array: np.ndarray) -> str:
    """The protocol's name for an array's dtype.

    >>> datatype_of(np.zeros(3, np.float32)), datatype_of(np.array(["a"], object))
    ('FP32', 'BYTES')
    """
    return _NAMES[array.dtype.newbyteorder("<") if array.dtype.kind in "iuf" else array.dtype]


def check_shape(where: str, shape: object) -> tuple[int, ...]:
    """Raises RequestError if a shape of JSON is none."""
    if (
        isinstance(shape, list)
        and len(shape) <= _MAX_DIMS
        and all(type(dim) is int and dim >= 0 for dim in shape)
        and math.prod(shape) <= _MAX_ELEMENTS
    ):
        return tuple(shape)
    raise RequestError(
        400, f"{where}.shape: expected a list of sizes, got {shown(shape)}; give the shape"
    )


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Tensor:
    """Reads the elements of a tensor in JSON, flat or nested.

    Raises:
        RequestError: they are of another type or number than the tensor says.
    """
    where = f"inputs {shown(name)}"
    if not isinstance(data, list):
        raise RequestError(
            400, f"{where}: expected data as a list, got {shown(data)}; give its elements"
        )
    flat = _flatten(where, data, shape)
    if datatype == "BYTES":
        if wrong := [cell for cell in flat if cell is not None and not isinstance(cell, str)]:
            raise _wrong_element(where, datatype, wrong[0])
        array = np.empty(len(flat), object)
        array[:] = flat
        return Tensor(name, datatype, array.reshape(shape), None in flat)
    if has_null := None in flat:
        if datatype not in _FLOATS:
            raise _wrong_element(where, datatype, None)
        flat = [math.nan if cell is None else cell for cell in flat]
    return Tensor(name, datatype, _numbers(where, datatype, flat).reshape(shape), has_null)


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> Tensor:
    """Reads the elements of a tensor that follows the JSON as raw bytes, little-endian.

    Raises:
        RequestError: their number is not that of the shape.
    """
    where, count = f"inputs {shown(name)}", math.prod(shape)
    if datatype == "BYTES":
        cells = _split_bytes(where, data)
        if len(cells) != count:
            raise _wrong_count(where, shape, len(cells))
        array = np.empty(count, object)
        array[:] = cells
        return Tensor(name, datatype, array.reshape(shape))
    dtype = DATATYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            400,
            f"{where}: expected {count * dtype.itemsize} bytes, as its shape {list(shape)} of "
            f"{datatype} says, got {len(data)}; correct binary_data_size or the shape",
        )
    if datatype == "BOOL" and (np.frombuffer(data, np.uint8) > 1).any():
        raise RequestError(400, f"{where}: expected 0 and 1 as BOOL, got other bytes; correct them")
    return Tensor(name, datatype, np.frombuffer(data, dtype).reshape(shape))


def to_json(name: str, array: np.ndarray) -> list[Any]:
    """The elements of an output, flat, as JSON values that give the same bits when read.

    Raises:
        RequestError: one is not finite, which JSON cannot say.
    """
    if array.dtype == object:
        return array.ravel().tolist()
    if array.dtype.kind not in "iub":
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise RequestError(
                422,
                f"outputs {shown(name)}: expected finite numbers, which JSON can hold, got "
                f"{array[~np.isfinite(array)][0]}; check the inputs, or ask for binary_data",
            )
    return array.ravel().tolist()


def to_bytes(array: np.ndarray) -> bytes:
    """The elements of an output as raw bytes, little-endian."""
    if array.dtype == object:
        cells = [str(cell).encode() for cell in array.ravel()]
        return b"".join(_LENGTH.pack(len(cell)) + cell for cell in cells)
    dtype = array.dtype.newbyteorder("<") if array.dtype.kind in "iuf" else array.dtype
    return np.ascontiguousarray(array, dtype).tobytes()


def _flatten(where: str, data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The elements of nested lists; as many as the shape says."""
    flat: Sequence[Any] = data
    for dim in shape[1:]:
        if not flat or not isinstance(flat[0], list):
            break
        if not all(isinstance(part, list) and len(part) == dim for part in flat):
            raise RequestError(
                400,
                f"{where}: expected data flat, or nested as its shape {list(shape)} says, got "
                "other lists; correct the data or the shape",
            )
        flat = [cell for part in flat for cell in part]
    if any(isinstance(cell, list | dict) for cell in flat) or len(flat) != math.prod(shape):
        raise _wrong_count(where, shape, len(flat))
    return list(flat)


def _numbers(where: str, datatype: str, flat: list[Any]) -> np.ndarray:
    dtype = DATATYPES[datatype]
    allowed = (bool,) if datatype == "BOOL" else (int, float) if datatype in _FLOATS else (int,)
    if wrong := [cell for cell in flat if type(cell) not in allowed]:
        raise _wrong_element(where, datatype, wrong[0])
    try:
        if datatype not in _FLOATS:
            return np.array(flat, dtype)
        wide = np.array(flat, np.float64)
    except OverflowError as error:
        raise RequestError(
            400, f"{where}: expected numbers within {datatype}, got larger ones; correct them"
        ) from error
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    if (np.isinf(array.astype(np.float64)) & np.isfinite(wide)).any():
        raise RequestError(
            400, f"{where}: expected numbers within {datatype}, got larger ones; correct them"
        )
    return array


def _split_bytes(where: str, data: memoryview) -> list[bytes]:
    cells, place = [], 0
    while place < len(data):
        end = place + _LENGTH.size
        size = _LENGTH.unpack(data[place:end])[0] if end <= len(data) else len(data)
        if end + size > len(data):
            raise RequestError(
                400,
                f"{where}: expected BYTES, each with its length in 4 bytes before it, got "
                f"{len(data) - place} bytes at the end that are none; correct them",
            )
        cells.append(bytes(data[end : end + size]))
        place = end + size
    return cells


def _wrong_element(where: str, datatype: str, element: object) -> RequestError:
    return RequestError(
        400, f"{where}: expected elements of {datatype}, got {shown(element)}; correct them"
    )


def _wrong_count(where: str, shape: tuple[int, ...], got: int) -> RequestError:
    return RequestError(
        400,
        f"{where}: expected {math.prod(shape)} elements, as its shape {list(shape)} says, got "
        f"{got}; correct the data or the shape",
    )
