"""Averaged parameters: a moving average beside the trained ones, to evaluate and predict with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from aetheria.model.model import Params, Tree
from aetheria.model.precision import widen


class AverageState(NamedTuple):
    """An optimizer's state with an average beside it.

    Attributes:
        num_updates: i32 [], the number of updates so far.
        averaged_params: like the parameters; f32 where these are narrower.
        inner: the state of the optimizer itself.
    """

    num_updates: jax.Array
    averaged_params: Params
    inner: optax.OptState


def with_average(
    decay: float, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Adds an exponential moving average of the parameters to an optimizer. The model is then
    evaluated, and predicts, with the averaged parameters.

    After t updates the decay is at most (1 + t) / (10 + t), so a short run forgets its first
    parameters.

    Args:
        decay: the weight of the old average in each update; 0 keeps no average.
        optimizer: the optimizer.

    Source: the average is Polyak & Juditsky's (1992); the bound is that of TensorFlow's
    `ExponentialMovingAverage(num_updates=…)`.
    """
    if not decay:
        return optimizer
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> AverageState:
        # A copy: a state that contains one buffer twice cannot be donated.
        average = jax.tree.map(jnp.copy, widen(params))
        return AverageState(jnp.zeros((), jnp.int32), average, optimizer.init(params))

    def update(
        updates: optax.Updates, state: Tree, params: Params = None, **extra: object
    ) -> tuple[optax.Updates, AverageState]:
        updates, inner = optimizer.update(updates, state.inner, params, **extra)
        moved = optax.apply_updates(params, updates)
        t = state.num_updates.astype(float)  # of 32 bits, or of 64 where jax has them
        weight = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
        average = jax.tree.map(
            lambda old, new: (
                old + (weight * (new - old)).astype(old.dtype)
                if jnp.issubdtype(old.dtype, jnp.inexact)
                else new
            ),
            state.averaged_params,
            moved,
        )
        return updates, AverageState(state.num_updates + 1, average, inner)

    return optax.GradientTransformationExtraArgs(init, update)
