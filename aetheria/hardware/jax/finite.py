"""Whether what a step would write is finite, as one number for all devices."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from aetheria.hardware.layout.leaves import copied_parameter, named_leaves


def stays_finite(new: Any, old: Any, params: Any) -> jax.Array:
    """Whether every element that was finite still is. One that was not may stay so: some optimizers
    begin with an infinity, such as the best loss seen so far.

    Args:
        new: a tree of arrays.
        old: the same before the step.
        params: the parameters, by whose paths `new` names what belongs together.

    Returns:
        bool [], of all devices together.
    """
    finite = jnp.bool_(True)
    for group in _mirrors(new, old, params):
        good = jnp.bool_(True)
        for after, before in group:
            good &= jnp.isfinite(after) | ~jnp.isfinite(before)
        finite &= good.all()
    return finite


def _mirrors(new: Any, old: Any, params: Any) -> Iterable[list[tuple[jax.Array, jax.Array]]]:
    """Pairs of float leaves; a parameter's and its moments' together, which lie on the devices
    alike. XLA reduces slowly on a CPU: one reduction of a parameter and its moments costs half of
    what three do.
    """
    shapes = {path: leaf.shape for path, leaf in named_leaves(params).items()}
    groups: dict[str, list[tuple[jax.Array, jax.Array]]] = {}
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    for path, (after, before) in zip(named_leaves(new), pairs, strict=True):
        if jnp.issubdtype(after.dtype, jnp.inexact):
            mirrored = copied_parameter(path, after.shape, shapes)
            groups.setdefault(mirrored or f"/{path}", []).append((after, before))
    return groups.values()
