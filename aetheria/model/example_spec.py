"""The shapes and dtypes of one example as a file records them, checked before they are used."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.errors import SnapshotError, shown

_MAX_DIMS, _MAX_ELEMENTS = 32, 2**31


def example_shapes(spec: object, where: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the columns of a batch of one example.

    Args:
        spec: column name -> {"shape", "dtype"} of one example, as read from a file.
        where: what to call the file in errors.

    Raises:
        SnapshotError: `spec` is anything else.

    >>> example_shapes({"labels": {"shape": [], "dtype": "int32"}}, "a file")
    {'labels': ShapeDtypeStruct(shape=(1,), dtype=int32)}
    """
    if not isinstance(spec, Mapping) or not spec:
        raise SnapshotError(
            f"{where}: expected example_spec with columns, got {shown(spec)}; use another file"
        )
    return {name: _column(name, column, where) for name, column in spec.items()}


def _column(name: str, column: object, where: str) -> jax.ShapeDtypeStruct:
    said = column if isinstance(column, Mapping) else {}
    shape, dtype = _shape(said.get("shape")), _dtype(said.get("dtype"))
    if shape is not None and dtype is not None:
        return jax.ShapeDtypeStruct((1, *shape), dtype)
    raise SnapshotError(
        f"{where}: expected example_spec to say the shape and the dtype of numbers for column "
        f"{shown(name)}, got {shown(column)}; use another file"
    )


def _shape(said: object) -> tuple[int, ...] | None:
    if not isinstance(said, list | tuple) or len(said) > _MAX_DIMS:
        return None
    if not all(type(dim) is int and dim >= 0 for dim in said) or math.prod(said) > _MAX_ELEMENTS:
        return None
    return tuple(said)


def _dtype(said: object) -> np.dtype | None:
    try:
        dtype = jnp.dtype(said) if isinstance(said, str) else None
    except TypeError:
        return None
    known = dtype is not None and (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_)
    return dtype if known else None
