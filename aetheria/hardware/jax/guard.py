"""The guard: what a step makes of a window of which something is not finite.

That is its loss, its gradient, or what the step would write: parameters, optimizer state and model
state. A bad window changes nothing but the counters. Unless the host has said that it need not be
asked, the state then *holds*: the steps after it change and count nothing, so that the host may
find out late and still find everything as it was.
"""

import jax
import jax.numpy as jnp

from aetheria.hardware.layout.counters import (
    CONSECUTIVE,
    FROZEN,
    IGNORE_UNTIL,
    LAST_SKIPPED,
    NUM_SKIPPED,
    STEP,
)


def is_frozen(counters: jax.Array, max_consecutive_skips: int) -> jax.Array:
    """Whether a state takes no further step: it holds, or has skipped too often in a row."""
    return (counters[FROZEN] > 0) | (counters[CONSECUTIVE] >= max_consecutive_skips)


def count(
    counters: jax.Array, finite: jax.Array, forgiven: jax.Array, finite_gradient: jax.Array | bool
) -> jax.Array:
    """Counts one step. A forgiven skip is none of the consecutive ones, does not end them either,
    and holds nothing.

    Args:
        counters: i32 [6], those before it.
        finite: bool [], whether everything is.
        forgiven: bool [], whether a smaller loss scale may be all that the step needs.
        finite_gradient: bool [], whether loss and gradient are.
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


def unfreeze(counters: jax.Array, examined: jax.Array) -> jax.Array:
    """Ends a hold; bad windows up to the step `examined` will be skipped without another."""
    return counters.at[FROZEN].set(0).at[IGNORE_UNTIL].set(examined)
