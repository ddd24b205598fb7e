"""A state saved under one precision policy, as another policy keeps it. Knows no model."""

import jax.numpy as jnp
import numpy as np

from aetheria.hardware.layout.loss_scale import initial_scale
from aetheria.hardware.layout.trees import Leaves, Shapes
from aetheria.model.precision import Precision


def adapt_state(arrays: Leaves, expected: Shapes, precision: Precision) -> Leaves:
    """Casts parameters and optimizer state to the expected dtypes; a loss scale starts again or is
    dropped. Whatever else does not fit is left for the check to name.

    Args:
        arrays: exported state, leaf path -> array.
        expected: leaf path -> shape and dtype, of the new policy.
        precision: the new policy.
    """
    adapted = {path: array for path, array in arrays.items() if path != "loss_scale"}
    for path, array in adapted.items():
        if path.split("/")[0] in ("params", "opt_state") and path in expected:
            adapted[path] = _cast_floating(np.asarray(array), expected[path].dtype)
    if precision.scales_loss:
        adapted["loss_scale"] = np.asarray(initial_scale(precision))
    return adapted


def _cast_floating(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    both = jnp.issubdtype(array.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.floating)
    return array.astype(dtype) if both else array
