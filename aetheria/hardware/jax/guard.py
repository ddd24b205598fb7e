"""The guard: what a step makes of a global batch in which something is not finite.

That is its loss, its gradient, or what the step would write: parameters, optimizer state and model
state. Such a global batch changes nothing but the counters. Then the state *freezes*, unless the
host has said that it need not look: the steps after it change and count nothing, so that the host
may learn of it late and still find everything as it was.

The guard knows neither the optimizer nor the model: what an update would write, it asks through
`finite_update`. `torch.guard` has the same rules for the other backend.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aetheria.hardware.jax.choice import choose
from aetheria.hardware.layout.counters import (
    CONSECUTIVE,
    FROZEN,
    IGNORE_UNTIL,
    LAST_SKIPPED,
    NUM_SKIPPED,
    STEP,
)
from aetheria.hardware.layout.loss_scale import (
    GROWTH_PERIOD,
    LossScale,
    adjust_scale,
    can_fall,
    unscale,
)
from aetheria.hardware.layout.state import Sums


class Numbers(NamedTuple):
    """What the guard carries from step to step.

    Attributes:
        counters: i32 [6], see `layout.counters`.
        loss_scale: f32 [2], see `layout.loss_scale`; `()` where the loss is not scaled.
    """

    counters: jax.Array
    loss_scale: LossScale


class Verdict(NamedTuple):
    """On one global batch.

    Attributes:
        counts: bool [], whether it changes anything but the guard's numbers.
        factor: f32 [], what its summed, scaled gradients are multiplied by.
        grad_norm: f32 [], of the mean gradient, before it is clipped.
        numbers: those after it.
    """

    counts: jax.Array
    factor: jax.Array
    grad_norm: jax.Array
    numbers: Numbers


@dataclass(frozen=True)
class Guard:
    """Decides inside the compiled step.

    Attributes:
        max_consecutive_skips: skips in a row after which the state freezes in any case.
        growth_period: good steps in a row after which the loss scale doubles.
        branches: as `choose` takes it.
    """

    max_consecutive_skips: int
    growth_period: int = GROWTH_PERIOD
    branches: bool = True

    def judge(
        self,
        numbers: Numbers,
        sums: Sums,
        norm: jax.Array,
        *,
        finite_state: jax.Array,
        finite_update: Callable[[jax.Array, jax.Array], jax.Array],
    ) -> Verdict:
        """Judges a global batch.

        Args:
            numbers: those before it.
            sums: its loss and weight, over all micro-batches and devices.
            norm: f32 [], the norm of its summed, scaled gradients.
            finite_state: bool [], whether its model state is finite where the one before was.
            finite_update: given `factor` and `grad_norm`, whether what the update would write is
                finite, bool []. It counts only where nothing else speaks against the update.
        """
        counters, loss_scale = numbers
        factor = unscale(jnp.where(sums.weight > 0, 1 / sums.weight, 0), loss_scale)
        grad_norm = norm * factor
        finite_loss = jnp.isfinite(sums.total) & jnp.isfinite(sums.weight)
        finite_gradient = finite_loss & jnp.isfinite(grad_norm)
        frozen = is_frozen(counters, self.max_consecutive_skips)
        has_weight = sums.weight > 0
        # Statistics of no example, such as a mean, need not be finite, and are not kept.
        finite_state = ~has_weight | finite_state
        may_count = finite_gradient & finite_state & ~frozen & has_weight
        would_stay_finite = choose(
            self.branches,
            may_count,
            lambda: finite_update(factor, grad_norm),
            lambda: jnp.bool_(True),
        )
        counts = may_count & would_stay_finite
        finite = finite_gradient & finite_state & would_stay_finite
        overflow = finite_loss & finite_state & ~finite_gradient & ~frozen
        forgiven = overflow & can_fall(loss_scale)
        counted = count(counters, finite, forgiven, finite_gradient)
        counters = jnp.where(frozen, counters, counted)
        loss_scale = adjust_scale(
            loss_scale, overflow=overflow, good=counts, growth_period=self.growth_period
        )
        return Verdict(counts, factor, grad_norm, Numbers(counters, loss_scale))


def is_frozen(counters: jax.Array, max_consecutive_skips: int) -> jax.Array:
    """Whether a state takes no further step: it is frozen, or has skipped too often in a row."""
    return (counters[FROZEN] != 0) | (counters[CONSECUTIVE] >= max_consecutive_skips)


def count(
    counters: jax.Array, finite: jax.Array, forgiven: jax.Array, finite_gradient: jax.Array | bool
) -> jax.Array:
    """Counts one step. A forgiven skip is not one of the consecutive ones, does not end them
    either, and freezes nothing.

    Args:
        counters: i32 [6], those before it.
        finite: bool [], whether everything is finite.
        forgiven: bool [], whether a smaller loss scale may be all that the step needs.
        finite_gradient: bool [], whether loss and gradient are finite.
    """
    step = counters[STEP] + 1
    bad = ~finite & ~forgiven
    return jnp.stack(
        [
            step,
            counters[NUM_SKIPPED] + jnp.where(finite, 0, 1),
            jnp.where(finite, 0, counters[CONSECUTIVE] + jnp.where(forgiven, 0, 1)),
            jnp.where(finite, counters[LAST_SKIPPED], jnp.where(finite_gradient, -step, step)),
            jnp.where(bad & (step > counters[IGNORE_UNTIL]), step, counters[FROZEN]),
            counters[IGNORE_UNTIL],
        ]
    )


def unfreeze(counters: jax.Array, ignore_until_step: jax.Array) -> jax.Array:
    """Unfreezes a state; up to that step, bad global batches are skipped without freezing it."""
    return counters.at[FROZEN].set(0).at[IGNORE_UNTIL].set(ignore_until_step)
