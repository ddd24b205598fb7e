"""The guard's counters: one packed array i32 [6], since every leaf more costs dispatch time."""

import jax
import jax.numpy as jnp

# LAST_SKIPPED is negative where that window's loss and gradient were finite, and what the step
# would have written was not.
STEP, NUM_SKIPPED, CONSECUTIVE, LAST_SKIPPED, FROZEN, IGNORE_UNTIL = range(6)
NUM_COUNTERS = 6


def initial_counters() -> jax.Array:
    """No step taken, nothing examined."""
    return jnp.zeros(NUM_COUNTERS, jnp.int32)
