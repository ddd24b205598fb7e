"""The number of the step that a loss is computed for."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp

# An array of the backend that computes the loss.
_STEP: ContextVar[Any] = ContextVar("step", default=None)


def current_step() -> Any:
    """Returns how many optimizer steps were taken before this one, i32 [], for schedules in `loss`,
    such as a weight that grows. All micro-batches and lanes of a step see the same number, and a
    resumed run goes on with the right one. In an evaluation, it is the number of steps taken so
    far.

    With JAX, it is a traced value: compute with it, and do not ask for its value. In a PyTorch
    counterpart, it is a number, on a GPU a tensor. Elsewhere, as in a test of the model alone, it
    is 0.

    >>> weight = jnp.minimum(1.0, current_step() / 1000)
    >>> float(weight)
    0.0
    """
    step = _STEP.get()
    return jnp.int32(0) if step is None else step


@contextlib.contextmanager
def at_step(step: object) -> Iterator[None]:
    """Says which step is computed, or traced, in the body."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)
