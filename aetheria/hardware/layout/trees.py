"""Names for what steps, states and reports are made of. Knows neither a model nor a device."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

# A pytree of arrays, of which JAX's own functions take any.
Tree: TypeAlias = Any
# On the host or on a device.
Array: TypeAlias = jax.Array | np.ndarray
# An exported state: leaf path -> array.
Leaves: TypeAlias = Mapping[str, Array]
# Shapes and dtypes of the same, without values.
Shapes: TypeAlias = Mapping[str, jax.ShapeDtypeStruct]
# Data on the host: column name -> array.
Columns: TypeAlias = Mapping[str, np.ndarray]
