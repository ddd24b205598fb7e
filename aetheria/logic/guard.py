"""The guard's counters: what a step makes of a window whose loss or gradient is not finite.

One packed array i32 [6], since every leaf more costs dispatch time. A bad window changes nothing
else. Unless the host has said that it need not be asked, the state then *holds*: the steps after it
change and count nothing, so that the host may find out late and still find everything as it was.
"""

import jax
import jax.numpy as jnp

STEP, NUM_SKIPPED, CONSECUTIVE, LAST_SKIPPED, HELD, EXAMINED = range(6)
NUM_COUNTERS = 6


def initial_counters() -> jax.Array:
    """No step taken, nothing examined."""
    return jnp.zeros(NUM_COUNTERS, jnp.int32)


def is_frozen(counters: jax.Array, max_consecutive_skips: int) -> jax.Array:
    """Whether a state takes no further step: it holds, or has skipped too often in a row."""
    return (counters[HELD] > 0) | (counters[CONSECUTIVE] >= max_consecutive_skips)


def count(counters: jax.Array, finite: jax.Array, forgiven: jax.Array) -> jax.Array:
    """Counts one step. A forgiven skip is none of the consecutive ones, does not end them either,
    and holds nothing.
    """
    step = counters[STEP] + 1
    bad = ~finite & ~forgiven
    return jnp.stack(
        [
            step,
            counters[NUM_SKIPPED] + jnp.where(finite, 0, 1),
            jnp.where(finite, 0, counters[CONSECUTIVE] + jnp.where(forgiven, 0, 1)),
            jnp.where(finite, counters[LAST_SKIPPED], step),
            jnp.where(bad & (step > counters[EXAMINED]), step, counters[HELD]),
            counters[EXAMINED],
        ]
    )


def release(counters: jax.Array, examined: jax.Array) -> jax.Array:
    """Ends a hold; bad windows up to the step `examined` will be skipped without another."""
    return counters.at[HELD].set(0).at[EXAMINED].set(examined)
