"""A state as a flat mapping, leaf path -> array: named, copied, checked, and made a state again."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from aetheria.errors import SnapshotError
from aetheria.logic.state import TrainState


def leaf_paths(tree: Any) -> list[str]:
    """Names every leaf by its path, `params/Dense_0/kernel` style, in tree order.

    >>> leaf_paths({"a": [1, 2], "b": {"c": 3}})
    ['a/0', 'a/1', 'b/c']
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def export_leaves(state: TrainState) -> dict[str, jax.Array]:
    leaves = jax.tree.leaves(state)
    arrays = [jax.random.key_data(leaf) if _is_key(leaf) else jnp.copy(leaf) for leaf in leaves]
    return dict(zip(leaf_paths(state), arrays, strict=True))


def import_leaves(leaves: list[jax.Array], abstract: TrainState) -> TrainState:
    likes, treedef = jax.tree.flatten(abstract)
    placed = [
        jax.random.wrap_key_data(leaf) if _is_key(like) else jnp.copy(leaf)
        for leaf, like in zip(leaves, likes, strict=True)
    ]
    return jax.tree.unflatten(treedef, placed)


def check_leaves(arrays: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Compares stored arrays with what a model expects, leaf by leaf.

    Raises:
        SnapshotError: names the first leaf that is missing, unknown, or differs in shape or dtype.
    """
    for path in [*expected, *arrays]:
        if path not in arrays:
            raise SnapshotError(
                f"{where}: expected a leaf {path!r}, got none; it was made by another model or "
                "optimizer"
            )
        if path not in expected:
            raise SnapshotError(
                f"{where}: expected no leaf {path!r}, got one; it was made by another model or "
                "optimizer"
            )
        have, want = arrays[path], expected[path]
        if tuple(have.shape) != tuple(want.shape) or have.dtype != want.dtype:
            raise SnapshotError(
                f"{where}: expected {path!r} to be {want.dtype}{list(want.shape)}, got "
                f"{have.dtype}{list(have.shape)}; give the model the parameters it was trained with"
            )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
