"""A choice between two results, as a branch or without one."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp

Result = TypeVar("Result")


def choose(
    branches: bool, where: jax.Array, one: Callable[[], Result], other: Callable[[], Result]
) -> Result:
    """The one result where `where` holds, else the other: trees of the same arrays.

    Args:
        branches: whether only what is chosen is computed, which costs less on a CPU. On a GPU the
            host would wait for `where`, and have nothing queued after it.
        where: bool [].
        one: makes a result.
        other: likewise.
    """
    if branches:
        return jax.lax.cond(where, one, other)
    return jax.tree.map(partial(jnp.where, where), one(), other())
