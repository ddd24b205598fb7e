"""Gradients of summed losses: of a micro-batch, and of a global batch made of micro-batches.

Knows neither an optimizer nor a mesh, and decides nothing: `guard` judges what comes out.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from aetheria.hardware.layout.loss_scale import LossScale, scale_loss
from aetheria.hardware.layout.state import Sums, sums_of
from aetheria.hardware.layout.trees import Tree
from aetheria.model.model import Batch, LossOutput, Model, ModelState, Params
from aetheria.model.precision import Precision, widen

# (params, model_state, batch, rng, loss_scale) -> (summed gradients, Sums, model_state)
GradientFunction: TypeAlias = Callable[..., tuple[Params, Sums, ModelState]]


def make_micro_gradient(model: Model, precision: Precision) -> GradientFunction:
    """Builds `micro_gradient`, a GradientFunction of a batch [micro_batch, ...].

    The gradients are of the *sum* of the loss, in float32 or wider, and still multiplied by the
    loss scale. The division by the weight comes later and once, by the weight of the whole global
    batch.
    """
    differentiate = _make_differentiate(model, precision)

    def micro_gradient(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rng: jax.Array,
        loss_scale: LossScale = (),
    ) -> tuple[Params, Sums, ModelState]:
        grads, out = differentiate(widen(params), model_state, batch, rng, loss_scale)
        return widen(grads), sums_of(out, batch), out.model_state

    return micro_gradient


def make_gradient(model: Model, precision: Precision) -> GradientFunction:
    """Builds `gradient`, a GradientFunction of a global batch [num_micro, micro_batch, ...].

    Micro-batches are added in their order, and the model state goes from one to the next.
    """
    differentiate = _make_differentiate(model, precision)
    micro_gradient = make_micro_gradient(model, precision)

    def gradient(
        params: Params,
        model_state: ModelState,
        global_batch: Batch,
        rng: jax.Array,
        loss_scale: LossScale = (),
    ) -> tuple[Params, Sums, ModelState]:
        num_micro = jax.tree.leaves(global_batch)[0].shape[0]
        if num_micro == 1:
            batch = jax.tree.map(lambda a: a[0], global_batch)
            key = jax.random.fold_in(rng, 0)
            return micro_gradient(params, model_state, batch, key, loss_scale)

        def accumulate(carry: Tree, item: Tree) -> tuple[Tree, None]:
            *totals, old_state = carry
            index, batch = item
            key = jax.random.fold_in(rng, index)
            # As `micro_gradient` does, without a frame more at every error in a user's network.
            grads, out = differentiate(widen(params), old_state, batch, key, loss_scale)
            more = [widen(grads), sums_of(out, batch)]
            # A micro-batch of padding alone says nothing about the data's statistics.
            counts = more[1].weight > 0
            new_state = jax.tree.map(
                lambda new, old: jnp.where(counts, new, old), out.model_state, old_state
            )
            return (*jax.tree.map(jnp.add, totals, more), new_state), None

        first = jax.tree.map(lambda a: a[0], global_batch)
        shapes = jax.eval_shape(micro_gradient, params, model_state, first, rng, loss_scale)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[:2])
        carry, _ = jax.lax.scan(
            accumulate, (*zeros, model_state), (jnp.arange(num_micro), global_batch)
        )
        return carry

    return gradient


def step_key(base_key: jax.Array, step: jax.Array) -> jax.Array:
    """Makes the key of a step: a function of the run's key data u32 [2] and the step's number."""
    return jax.random.fold_in(jax.random.wrap_key_data(base_key), step)


def _make_differentiate(
    model: Model, precision: Precision
) -> Callable[..., tuple[Params, LossOutput]]:
    """Builds (params, model_state, batch, rng, loss_scale) -> (gradients, the loss's output)."""

    def micro_loss(
        params: Params, model_state: ModelState, batch: Batch, rng: jax.Array, loss_scale: LossScale
    ) -> tuple[jax.Array, LossOutput]:
        cast = precision.cast_params(params)
        out = model.loss(cast, model_state, precision.cast_batch(batch), rng, True)
        return scale_loss(widen(out.total), loss_scale), out

    return jax.grad(micro_loss, has_aux=True)
