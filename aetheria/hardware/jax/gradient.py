"""Gradients of summed losses: of a micro-batch, and of a window of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aetheria.hardware.layout.loss_scale import scale_loss
from aetheria.hardware.layout.state import sums_of
from aetheria.model.model import Batch, Model
from aetheria.model.precision import Precision, widen


def make_micro_gradient(model: Model, precision: Precision) -> Callable[..., Any]:
    """Builds (params, model_state, batch, rng, scaling) -> (summed gradients, Sums, model_state).

    Gradients are of the *sum* of the loss, in float32 or wider and still scaled; whoever has
    the whole weight divides, once. `scaling` is the state's `loss_scale`.
    """

    def micro_loss(
        params: Any, model_state: Any, batch: Batch, rng: jax.Array, scaling: Any
    ) -> Any:
        cast = precision.cast_params(params)
        out = model.loss(cast, model_state, precision.cast_batch(batch), rng, True)
        return scale_loss(widen(out.total), scaling), out

    def micro_gradient(
        params: Any, model_state: Any, batch: Batch, rng: jax.Array, scaling: Any = ()
    ) -> Any:
        gradient = jax.grad(micro_loss, has_aux=True)
        grads, out = gradient(widen(params), model_state, batch, rng, scaling)
        return widen(grads), sums_of(out, batch), out.model_state

    return micro_gradient


def make_gradient(model: Model, precision: Precision) -> Callable[..., Any]:
    """Builds (params, model_state, window, rng, scaling) -> (summed gradients, Sums, model_state).

    The window leads with [grad_accumulation_steps, micro_batch]; micro-batches are added in their
    order, and the model state goes from one to the next.
    """
    micro_gradient = make_micro_gradient(model, precision)

    def gradient(
        params: Any, model_state: Any, global_batch: Batch, rng: jax.Array, scaling: Any = ()
    ) -> Any:
        num_micro = jax.tree.leaves(global_batch)[0].shape[0]
        if num_micro == 1:
            batch = jax.tree.map(lambda a: a[0], global_batch)
            return micro_gradient(params, model_state, batch, jax.random.fold_in(rng, 0), scaling)

        def accumulate(carry: Any, item: Any) -> Any:
            *carry, model_state = carry
            index, batch = item
            key = jax.random.fold_in(rng, index)
            *more, new_state = micro_gradient(params, model_state, batch, key, scaling)
            # A micro-batch of padding alone says nothing of the data's statistics.
            counts = more[1].weight > 0
            model_state = jax.tree.map(
                lambda new, old: jnp.where(counts, new, old), new_state, model_state
            )
            return (*jax.tree.map(jnp.add, carry, more), model_state), None

        first = jax.tree.map(lambda a: a[0], global_batch)
        shapes = jax.eval_shape(micro_gradient, params, model_state, first, rng, scaling)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[:2])
        carry, _ = jax.lax.scan(
            accumulate, (*zeros, model_state), (jnp.arange(num_micro), global_batch)
        )
        return carry

    return gradient


def step_key(base_key: jax.Array, step: jax.Array) -> jax.Array:
    """The key of a step: a function of the run's key data u32 [2] and the step's number."""
    return jax.random.fold_in(jax.random.wrap_key_data(base_key), step)
