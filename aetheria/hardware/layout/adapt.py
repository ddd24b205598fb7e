"""A state saved under one precision policy, as another one keeps it."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from aetheria.hardware.layout.loss_scale import initial_scale
from aetheria.model.precision import Precision


def adapt_state(
    arrays: Mapping[str, Any], expected: Mapping[str, Any], precision: Precision
) -> dict[str, Any]:
    """Casts parameters and optimizer state to the dtypes that are expected; a loss scale begins
    anew or goes. Whatever else does not fit is left for the check to name.

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


def _cast_floating(array: np.ndarray, dtype: Any) -> np.ndarray:
    both = jnp.issubdtype(array.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.floating)
    return array.astype(dtype) if both else array
