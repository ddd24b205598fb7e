"""A state as a flat mapping, leaf path -> array: named, copied, checked, and made a state again.

Knows neither files nor devices.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.errors import SnapshotError
from aetheria.hardware.layout.trees import Leaves, Shapes, Tree
from aetheria.model.contract import call_hook, check_init
from aetheria.model.model import Model, ModelState, Params
from aetheria.model.nesting import nested_columns
from aetheria.model.precision import Precision


def leaf_paths(tree: Tree) -> list[str]:
    """Names every leaf by its path, `params/Dense_0/kernel` style, in tree order.

    >>> leaf_paths({"a": [1, 2], "b": {"c": 3}})
    ['a/0', 'a/1', 'b/c']
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [path_of(path) for path, _ in paths]


def path_of(path: tuple[Any, ...]) -> str:
    """Names a leaf by the key path that JAX gives."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Tree) -> dict[str, Any]:
    """Maps the path of every leaf to the leaf, in tree order.

    >>> named_leaves({"a": [1, 2], "b": {"c": 3}})
    {'a/0': 1, 'a/1': 2, 'b/c': 3}
    """
    return dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))


def copied_parameter(
    path: str, shape: Sequence[int], shapes: Mapping[str, Sequence[int]]
) -> str | None:
    """Finds the parameter that a leaf of an optimizer's state is a copy or a moment of, or None.

    Args:
        path: the leaf's path, `1/0/mu/Dense_0/kernel`.
        shape: the leaf's shape.
        shapes: parameter path -> shape.
    """
    # By name and shape: optax.tree_map_params runs an optimizer's init on placeholders, which some
    # optimizers cannot take, and takes Adafactor's factored moments for parameters too.
    parts = path.split("/")
    suffixes = ("/".join(parts[start:]) for start in range(len(parts) + 1))
    return next((suffix for suffix in suffixes if shapes.get(suffix) == shape), None)


class Weights(NamedTuple):
    """The part of a state that a model's output depends on."""

    params: Params
    model_state: ModelState


def abstract_weights(model: Model, precision: Precision, batch: Mapping[str, Tree]) -> Weights:
    """Finds shapes and dtypes of a model's weights, as a precision policy stores them."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = lambda key, batch: check_init(model, call_hook(model, "init", key, batch))
    params, model_state = jax.eval_shape(init, key, nested_columns(batch))
    return Weights(
        jax.eval_shape(precision.store_params, params),
        jax.eval_shape(precision.store_model_state, model_state),
    )


def evaluated_leaves(arrays: Leaves) -> dict[str, Any]:
    """Copies the leaves of an exported state, with the averaged parameters, if it has any, in place
    of those it was trained with, and in their dtype.

    >>> import numpy as np
    >>> arrays = {"params/w": np.float32(1), "opt_state/averaged_params/w": np.float32(2)}
    >>> float(evaluated_leaves(arrays)["params/w"])
    2.0
    """
    averages = {}
    for path, array in arrays.items():
        if (param := averaged_param(path)) in arrays:
            averages[param] = array.astype(arrays[param].dtype)
    return {**arrays, **averages}


def averaged_param(path: str) -> str:
    """Finds the path of the parameter that a leaf is the average of; empty if it is no average.

    >>> averaged_param("opt_state/averaged_params/w"), averaged_param("opt_state/averaged_params")
    ('params/w', 'params')
    >>> averaged_param("opt_state/0/mu/w")
    ''
    """
    parts = path.split("/")
    if parts[0] != "opt_state" or "averaged_params" not in parts:
        return ""
    return "/".join(["params", *parts[parts.index("averaged_params") + 1 :]])


def place_weights(arrays: Leaves, abstract: Weights, where: str) -> Weights:
    """Puts the weights of an exported state on the default device.

    Raises:
        SnapshotError: they are another model's; the leaf is named.
    """
    own = Weights._fields
    given = {path: array for path, array in arrays.items() if path.split("/")[0] in own}
    expected = jax.eval_shape(export_leaves, abstract)
    check_leaves(given, expected, where)
    # In tree order: a dict that JAX returns is in another.
    return import_leaves([jnp.asarray(given[path]) for path in leaf_paths(abstract)], abstract)


def arrays_sha256(arrays: Mapping[str, np.ndarray], about: str = "") -> str:
    """Computes one digest of a description and of all names, dtypes, shapes and bytes, by name."""
    total = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name}{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8).data)
    return total.hexdigest()


def export_leaves(state: Tree) -> dict[str, jax.Array]:
    """Copies a state's leaves, path -> array, keys as uint32 data."""
    return {path: export_leaf(leaf) for path, leaf in named_leaves(state).items()}


def export_leaf(leaf: jax.Array) -> jax.Array:
    """Copies a leaf, a key as uint32 data."""
    return jax.random.key_data(leaf) if is_key(leaf) else jnp.copy(leaf)


def import_leaves(leaves: Sequence[jax.Array], abstract: Tree) -> Tree:
    """The inverse of `export_leaves`, from leaves in tree order."""
    likes, treedef = jax.tree.flatten(abstract)
    placed = [
        jax.random.wrap_key_data(leaf, impl=_key_impl(like)) if is_key(like) else jnp.copy(leaf)
        for leaf, like in zip(leaves, likes, strict=True)
    ]
    return jax.tree.unflatten(treedef, placed)


def check_leaves(arrays: Leaves, expected: Shapes, where: str) -> None:
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


def _key_impl(like: jax.ShapeDtypeStruct) -> Any:
    """Finds which kind of generator a key is of; JAX says it only of a value, or while tracing."""
    kinds = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return kinds[0]


def is_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether a leaf is a PRNG key, not plain numbers."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
