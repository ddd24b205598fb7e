"""Averaged parameters: a moving average beside the trained ones, to evaluate and predict with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aetheria.model.precision import widen


class AverageState(NamedTuple):
    """An optimizer's state with an average beside it.

    Attributes:
        num_updates: i32 [], updates so far.
        averaged_params: like the parameters, f32 where these are narrower.
        inner: the optimizer's own state.
    """

    num_updates: jax.Array
    averaged_params: Any
    inner: Any


def with_average(
    decay: float, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters that `optimizer` makes; a model whose
    optimizer has one is evaluated, and predicts, with it. `decay` 0 keeps none.

    After t updates the decay is at most (1 + t) / (10 + t), so that a short run does not remember
    where it began.

    Source: the average is Polyak & Juditsky's (1992); the bound is that of TensorFlow's
    `ExponentialMovingAverage(num_updates=…)`.
    """
    if not decay:
        return optimizer
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> AverageState:
        # A copy: a state whose buffers are one and the same cannot be donated.
        average = jax.tree.map(jnp.copy, widen(params))
        return AverageState(jnp.zeros((), jnp.int32), average, optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates, inner = optimizer.update(updates, state.inner, params, **extra)
        moved = optax.apply_updates(params, updates)
        t = state.num_updates.astype(float)  # the default one, of 32 bits or of 64
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
