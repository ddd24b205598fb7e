"""Weighted sums: the form in which losses and metrics add up over batches and devices."""

import jax
import jax.numpy as jnp

from aetheria.logic.model import WeightedSum
from aetheria.logic.precision import at_least_float32


def weighted(values: jax.Array, weights: jax.Array) -> WeightedSum:
    """Sums `values` by `weights`, in float32 or wider.

    Args:
        values: [batch, ...], one value an example (or a token).
        weights: [batch] or the shape of `values`; broadcast over the trailing dims.

    >>> import numpy as np
    >>> weighted(np.array([1.0, 2.0, 9.0]), np.array([1.0, 1.0, 0.0]))
    WeightedSum(total=Array(3., dtype=float32), weight=Array(2., dtype=float32))
    """
    values = at_least_float32(values)
    weights = jnp.asarray(weights, values.dtype)
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    weights = jnp.broadcast_to(weights, values.shape)
    return WeightedSum((values * weights).sum(), weights.sum())
