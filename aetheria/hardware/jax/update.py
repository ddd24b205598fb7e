"""The second half of a step: the guard's verdict on a gradient, and its application."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aetheria.hardware.jax.finite import stays_finite
from aetheria.hardware.jax.guard import count, is_frozen
from aetheria.hardware.layout.loss_scale import (
    GROWTH_PERIOD,
    adjust_scale,
    can_fall,
    scale_row,
    unscale,
)
from aetheria.hardware.layout.report_rows import counted, pack_values
from aetheria.hardware.layout.state import StepOutput, Sums, TrainState
from aetheria.model.fitting import extra_arguments
from aetheria.model.precision import cast_like, widen


def make_update(
    optimizer: optax.GradientTransformation,
    max_consecutive_skips: int,
    *,
    growth_period: int = GROWTH_PERIOD,
) -> Callable[..., tuple[TrainState, StepOutput]]:
    """Builds `update(state, summed gradients, sums, model_state) -> (state, report)`: divides by
    the weight and the loss scale, guards, updates and counts.
    """
    takes = extra_arguments(optimizer)

    # Under jit for the sake of its trace alone, which every use shares: of a thousand parameters it
    # takes seconds.
    @jax.jit
    def take(
        params: Any, state: Any, grads: Any, factor: Any, grad_norm: Any, loss: Any
    ) -> tuple[Any, Any]:
        mean = jax.tree.map(lambda g: g * factor, grads)
        extra = {"grad_norm": grad_norm} if "grad_norm" in takes else {}
        extra |= {"value": loss} if "value" in takes else {}
        updates, new = optimizer.update(mean, widen(state), widen(params), **extra)
        return optax.apply_updates(params, updates), cast_like(new, state)

    def update(
        state: TrainState, grads: Any, sums: Sums, model_state: Any
    ) -> tuple[TrainState, StepOutput]:
        factor = unscale(jnp.where(sums.weight > 0, 1 / sums.weight, 0), state.loss_scale)
        grad_norm = optax.tree.norm(grads) * factor
        finite_loss = jnp.isfinite(sums.total) & jnp.isfinite(sums.weight)
        finite_gradient = finite_loss & jnp.isfinite(grad_norm)
        frozen = is_frozen(state.counters, max_consecutive_skips)
        has_weight = sums.weight > 0
        # Statistics of no example, such as a mean, need not be finite, and are not kept.
        finite_state = ~has_weight | stays_finite(model_state, state.model_state, state.params)

        def updated() -> tuple[Any, Any]:
            mean = sums.total / sums.weight
            return take(state.params, state.opt_state, grads, factor, grad_norm, mean)

        def is_finite() -> jax.Array:
            return stays_finite(updated(), (state.params, state.opt_state), state.params)

        def apply() -> Any:
            params, opt_state = updated()
            return params, model_state, opt_state

        def keep() -> Any:
            return state.params, state.model_state, state.opt_state

        # The update is computed twice, first only to look at it: to keep it beside what it replaces
        # would take the memory of a second state, and on a CPU no less time.
        may_count = finite_gradient & finite_state & ~frozen & has_weight
        finite_update = jax.lax.cond(may_count, is_finite, lambda: jnp.bool_(True))
        # cond, not where on every leaf: it skips the update's work, and is far cheaper on CPU.
        counts = may_count & finite_update
        params, model_state, opt_state = jax.lax.cond(counts, apply, keep)
        finite = finite_gradient & finite_state & finite_update
        overflow = finite_loss & finite_state & ~finite_gradient & ~frozen
        forgiven = overflow & can_fall(state.loss_scale)
        counters = count(state.counters, finite, forgiven, finite_gradient)
        counters = jnp.where(frozen, state.counters, counters)
        norm = jnp.where(counts, grad_norm, 0), counts.astype(grad_norm.dtype)
        values = pack_values(counted(counts, sums), grad_norm=norm, **scale_row(state.loss_scale))
        scaling = adjust_scale(
            state.loss_scale, overflow=overflow, good=counts, growth_period=growth_period
        )
        state = state._replace(
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            counters=counters,
            loss_scale=scaling,
        )
        return state, StepOutput(values, counters)

    return update
