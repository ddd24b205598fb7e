"""Dynamic loss scaling: keeps small float16 gradients from vanishing.

The loss is multiplied before its gradient is taken, and the gradient is divided once it is whole.
The scale falls after an overflow and rises when there was none for long. All of it is a function of
a small packed state, part of the TrainState; where nothing is scaled that is `()`, no leaf.

Source: Micikevicius et al., "Mixed Precision Training" (arXiv:1710.03740), section 3.2.
"""

from typing import TypeAlias, TypeGuard

import jax
import jax.numpy as jnp

from aetheria.model.precision import Precision

# Positions in the packed state, f32 [2].
SCALE, GOOD_STEPS = range(2)

# Powers of two alone: multiplying by one and dividing by it again changes no bit.
INITIAL_SCALE, SMALLEST_SCALE, LARGEST_SCALE = 2.0**15, 1.0, 2.0**24
GROWTH_PERIOD = 2000

LossScale: TypeAlias = jax.Array | tuple[()]  # f32 [2], or () where the loss is not scaled


def initial_scale(precision: Precision) -> LossScale:
    """Makes the state of step 0."""
    if not precision.scales_loss:
        return ()
    return jnp.array([INITIAL_SCALE, 0], jnp.float32)


def is_scaled(loss_scale: LossScale) -> TypeGuard[jax.Array]:
    """Whether there is a scale; known while tracing."""
    return not isinstance(loss_scale, tuple)


def scale_loss(total: jax.Array, loss_scale: LossScale) -> jax.Array:
    """Multiplies a summed loss f32 []."""
    return total * loss_scale[SCALE] if is_scaled(loss_scale) else total


def unscale(factor: jax.Array, loss_scale: LossScale) -> jax.Array:
    """Divides the factor f32 [] that summed gradients are about to be multiplied by."""
    return factor / loss_scale[SCALE] if is_scaled(loss_scale) else factor


def can_fall(loss_scale: LossScale) -> jax.Array | bool:
    """Whether a smaller scale is left to try after an overflow."""
    return is_scaled(loss_scale) and loss_scale[SCALE] > SMALLEST_SCALE


def adjust_scale(
    loss_scale: LossScale,
    *,
    overflow: jax.Array,
    good: jax.Array,
    growth_period: int = GROWTH_PERIOD,
) -> LossScale:
    """Halves the scale after an overflow; doubles it after `growth_period` good steps in a row.

    Args:
        loss_scale: the state.
        overflow: bool [], the step's gradients were not finite.
        good: bool [], the step was taken; one that is neither says nothing about the scale.
        growth_period: how many good steps a doubling takes.

    >>> import numpy as np
    >>> state, yes, no = np.float32([8, 1]), np.True_, np.False_
    >>> adjust_scale(state, overflow=yes, good=no, growth_period=2).tolist()
    [4.0, 0.0]
    >>> adjust_scale(state, overflow=no, good=yes, growth_period=2).tolist()
    [16.0, 0.0]
    >>> adjust_scale(state, overflow=no, good=yes, growth_period=3).tolist()
    [8.0, 2.0]
    """
    if not is_scaled(loss_scale):
        return loss_scale
    now, good_steps = loss_scale[SCALE], loss_scale[GOOD_STEPS] + good
    grows = good_steps >= growth_period
    smaller, larger = jnp.maximum(now / 2, SMALLEST_SCALE), jnp.minimum(now * 2, LARGEST_SCALE)
    after = jnp.where(overflow, smaller, jnp.where(grows, larger, now))
    return jnp.stack([after, jnp.where(overflow | grows, 0, good_steps)])


def scale_row(loss_scale: LossScale) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Makes the scale a row of a train report, a (sum, weight) pair; no row without a scale."""
    if not is_scaled(loss_scale):
        return {}
    return {"loss_scale": (loss_scale[SCALE], jnp.ones((), jnp.float32))}
