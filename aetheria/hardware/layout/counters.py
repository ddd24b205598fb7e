"""The guard's counters: one packed array i32 [6], since each further leaf costs dispatch time."""

import jax
import jax.numpy as jnp

# LAST_SKIPPED is negative where the loss and gradient of that global batch were finite, and what
# the step would have written was not.
# FROZEN is negative where a spot check froze the state: minus the step that was to be taken.
STEP, NUM_SKIPPED, CONSECUTIVE, LAST_SKIPPED, FROZEN, IGNORE_UNTIL = range(6)
NUM_COUNTERS = 6


def initial_counters() -> jax.Array:
    """Makes the counters of step 0: no step taken, nothing to ignore."""
    return jnp.zeros(NUM_COUNTERS, jnp.int32)
