"""What a state may hold, checked on shapes alone, before anything compiles. Knows no device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from aetheria.errors import ModelError
from aetheria.hardware.layout.leaves import named_leaves, path_of
from aetheria.hardware.layout.state import TrainState
from aetheria.model.model import Model, ModelState

_UNSAFE = ("", ".", "..")


def check_contents(model: Model, state: TrainState) -> None:
    """Checks the names of all leaves, and that the parameters can be differentiated.

    Args:
        model: is named in the message.
        state: shapes and dtypes alone.

    Raises:
        ModelError: names the leaf.
    """
    name = type(model).__name__
    _check_paths(name, [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)])
    for path, leaf in named_leaves(state.params).items():
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ModelError(
                f"{name}.init: expected parameters of floats, got {leaf.dtype}{list(leaf.shape)} "
                f"for {_joined('params', path)!r}; keep what is not trained in model_state"
            )


def check_mergeable(model: Model, model_state: ModelState) -> None:
    """Checks that lanes can be merged: numbers can be, keys of generators cannot.

    Raises:
        ModelError: names the leaf.
    """
    for path, leaf in named_leaves(model_state).items():
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ModelError(
                f"{type(model).__name__}.init: expected a model_state of numbers with "
                f"reproducibility elastic, got a PRNG key for {_joined('model_state', path)!r}; "
                "use the rng that loss is given, or reproducibility fast"
            )


def _joined(part: str, path: str) -> str:
    return f"{part}/{path}" if path else part


def _check_paths(name: str, paths: Sequence[str]) -> None:
    """A snapshot names a leaf by its path, and Orbax separates the parts of a name by dots."""
    taken: dict[str, str] = {}
    for path in paths:
        if any(part in _UNSAFE or "\\" in part or "\0" in part for part in path.split("/")):
            raise ModelError(
                f"{name}.init: expected names of one or more characters, without a backslash, got "
                f"{path!r}; rename this part of the state"
            )
        stored = path.replace("/", ".")
        if stored in taken:
            raise ModelError(
                f"{name}.init: expected a path of its own for every leaf, got {taken[stored]!r} "
                f"and {path!r}, which a snapshot cannot tell apart; rename one"
            )
        taken[stored] = path
    for stored, path in taken.items():
        parts = stored.split(".")
        for count in range(1, len(parts)):
            if (inner := ".".join(parts[:count])) in taken:
                raise ModelError(
                    f"{name}.init: expected no leaf inside another, got {taken[inner]!r} and "
                    f"{path!r}; rename one"
                )
