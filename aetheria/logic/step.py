"""The train and eval step as pure functions of a state: grad, guard, update, count."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aetheria.logic.averaging import evaluated
from aetheria.logic.finite import stays_finite
from aetheria.logic.fitting import extra_arguments
from aetheria.logic.gradient import make_gradient, step_key
from aetheria.logic.guard import STEP, count, is_frozen
from aetheria.logic.loss_scale import (
    GROWTH_PERIOD,
    adjust_scale,
    can_fall,
    scale_row,
    unscale,
)
from aetheria.logic.model import Batch, Model
from aetheria.logic.precision import Precision, cast_like, widen
from aetheria.logic.report_rows import counted, pack_values
from aetheria.logic.state import StepOutput, Sums, TrainState, sums_of


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    precision: Precision,
    max_consecutive_skips: int,
    *,
    growth_period: int = GROWTH_PERIOD,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepOutput]]:
    """Builds `train_step(state, window) -> (state, report)`.

    The guard: a window whose loss or global gradient norm is not finite, or whose step would write
    a parameter, an optimizer state or a model state that is not, changes nothing but the counters.
    Then, and after `max_consecutive_skips` such windows in a row, the state freezes: no
    further window changes or counts anything, so that the host may find out late and still find
    everything as it was; see `aetheria.logic.guard`.
    A window of zero weight takes a step that changes no parameter. With float16, a window whose
    forward pass is finite (its loss and model state) and whose gradients are not has overflowed: it
    is skipped and counted as skipped, and halves the loss scale; only at the smallest scale does it
    count towards the limit.

    An optimizer that takes extra arguments is given `grad_norm`, the global gradient norm, so that
    clipping need not read every gradient a second time, and `value`, the window's mean loss.
    """
    gradient = make_gradient(model, precision)
    update = make_update(optimizer, max_consecutive_skips, growth_period=growth_period)

    def train_step(state: TrainState, window: Batch) -> tuple[TrainState, StepOutput]:
        rng = step_key(state.base_key, state.counters[STEP])
        grads, sums, model_state = gradient(
            state.params, state.model_state, window, rng, state.loss_scale
        )
        return update(state, grads, sums, model_state)

    return train_step


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


def make_train_steps(
    train_step: Callable[..., Any], add: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    """Builds `train_steps(state, chunk, start, count, rows) -> (state, report)` of a train step;
    `rows` are those of the interval so far, to which `add` adds each step's.

    The chunk leads with [num_windows]; `count` of its windows are trained on, from `start` on, in
    one call: where a step takes microseconds, dispatching it takes as long again. Start and count
    are values, not shapes, so that one compilation serves wherever a cadence cuts a chunk.
    """

    def train_steps(state: TrainState, chunk: Batch, start: Any, count: Any, rows: Any) -> Any:
        def take(index: Any, carry: Any) -> Any:
            window = jax.tree.map(lambda column: column[index], chunk)
            state, report = train_step(carry[0], window)
            return state, StepOutput(add(carry[1].values, report.values), report.counters)

        before = state, StepOutput(rows, jnp.zeros_like(state.counters))
        if jax.tree.leaves(chunk)[0].shape[0] == 1:
            return take(0, before)
        return jax.lax.fori_loop(start, start + count, take, before)

    return train_steps


def make_eval_step(model: Model, precision: Precision) -> Callable[[TrainState, Batch, Sums], Sums]:
    """Builds `eval_step(state, batch, totals) -> totals`; the batch leads with [batch]."""
    add = make_eval_sums(model, precision)

    def eval_step(state: TrainState, batch: Batch, totals: Sums) -> Sums:
        return jax.tree.map(jnp.add, totals, add(state, batch))

    return eval_step


def make_eval_sums(model: Model, precision: Precision) -> Callable[[TrainState, Batch], Sums]:
    """Builds `(state, batch) -> Sums` of one evaluation batch."""

    def eval_sums(state: TrainState, batch: Batch) -> Sums:
        params = precision.cast_params(evaluated(state).params)
        batch = precision.cast_batch(batch)
        key = jax.random.wrap_key_data(state.base_key)
        return sums_of(model.loss(params, state.model_state, batch, key, False), batch)

    return eval_sums
