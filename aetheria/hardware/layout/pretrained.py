"""The weights that a model starts from, where it has others than those of its `init`.

Loaded for such a model alone.
"""

from collections.abc import Callable
from typing import cast

import jax
import numpy as np
import optax
from numpy.typing import ArrayLike

from aetheria.errors import ModelError
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.layout.state import (
    TrainState,
    init_options,
    init_weights,
    is_pretrained,
    make_first_state,
    make_init,
)
from aetheria.model.contract import call_hook, check_init, where
from aetheria.model.model import Batch, Model, ModelState, Params
from aetheria.model.precision import Precision


def pretrained_weights(
    model: Model, base_key: jax.Array, example_batch: Batch
) -> tuple[Params, ModelState]:
    """Makes the weights of `init`, and calls `pretrained` with them, once, on the host.

    Raises:
        ModelError: it returns another tree or other shapes; the leaf is named.
    """
    init = jax.jit(
        lambda key, batch: init_weights(model, key, batch),
        compiler_options=init_options(jax.default_backend()),
    )
    made = jax.device_get(init(base_key, example_batch))
    fresh = jax.tree.map(np.array, made)  # a copy that the hook may write into
    given = check_init(model, call_hook(model, "pretrained", *fresh), "pretrained")
    old, new = named_leaves(made), named_leaves(given)
    for path in dict.fromkeys([*old, *new]):
        expected, got = (_shape_text(tree.get(path)) for tree in (old, new))
        if expected != got:
            raise ModelError(
                f"{where(model, 'pretrained')}: expected {path.partition('/')[2]!r} as init makes "
                f"it, {expected}, got {got}; return the tree that it was given, with other values"
            )
    leaves = [np.asarray(new[path], leaf.dtype) for path, leaf in old.items()]
    params, model_state = jax.tree.unflatten(jax.tree.structure(made), leaves)
    return params, model_state


def _shape_text(leaf: object) -> str:
    return "no such leaf" if leaf is None else f"shape {[*np.shape(cast(ArrayLike, leaf))]}"


def make_initial_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    precision: Precision,
    jit: Callable[..., Callable[..., TrainState]],
    base_key: jax.Array,
    example_batch: Batch,
) -> TrainState:
    """Makes the state of step 0, from pretrained weights or not.

    Args:
        model: the model.
        optimizer: its optimizer.
        precision: the policy.
        jit: compiles a function, given `compiler_options`.
        base_key: of the run.
        example_batch: [batch, ...].
    """
    options = init_options(jax.default_backend())
    if is_pretrained(model):
        weights = pretrained_weights(model, base_key, example_batch)
        make = jit(make_first_state(model, optimizer, precision), compiler_options=options)
        return make(base_key, *weights)
    make = jit(make_init(model, optimizer, precision), compiler_options=options)
    return make(base_key, example_batch)
