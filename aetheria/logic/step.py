"""The train and eval step as pure functions of a state: grad, guard, update, count."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aetheria.logic.guard import STEP, count, initial_counters, is_frozen
from aetheria.logic.loss_scale import (
    GROWTH_PERIOD,
    LossScale,
    adjust_scale,
    can_fall,
    initial_scale,
    scale_loss,
    scale_row,
    unscale,
)
from aetheria.logic.model import Batch, LossOutput, Model
from aetheria.logic.precision import FLOAT32, Precision, cast_floating, cast_like, widen


class TrainState(NamedTuple):
    """Everything on the device that decides the future of a run.

    A named tuple, and the key as plain data: a step of a small model spends most of its time in
    jax's dispatch, which is slower for a dataclass and for typed keys.

    Attributes:
        params: the model's parameters, f32 unless the policy says otherwise.
        model_state: batch statistics and the like.
        opt_state: the optimizer's state.
        base_key: u32 [2], the data of the run's PRNG key; never split, only folded with the step.
        counters: i32 [6], the guard's; see `aetheria.logic.guard`.
        loss_scale: f32 [2] where float16 is computed in, else `()`: no leaf, which costs nothing.
    """

    params: Any
    model_state: Any
    opt_state: Any
    base_key: jax.Array
    counters: jax.Array
    loss_scale: LossScale = ()


class Sums(NamedTuple):
    """Sums over micro-batches: the loss, its weight, the metrics, and the real examples."""

    total: jax.Array
    weight: jax.Array
    metrics: Mapping[str, Any]
    num_examples: jax.Array


class StepOutput(NamedTuple):
    """A train report still on the device.

    Attributes:
        values: f32 [2 + metrics, 2], a (sum, weight) row for loss, grad_norm and each metric; with
            float16, one for the scale the step was taken with, after grad_norm.
        counters: i32 [6], as in TrainState.
    """

    values: jax.Array
    counters: jax.Array


def make_init(
    model: Model, optimizer: optax.GradientTransformation, precision: Precision = FLOAT32
) -> Callable[[jax.Array, Batch], TrainState]:
    """Builds the function (base key, example batch) -> state of step 0."""

    def init(base_key: jax.Array, example_batch: Batch) -> TrainState:
        # Step s folds s >= 0 into the key; initialisation takes a number no step reaches.
        params, model_state = model.init(jax.random.fold_in(base_key, 2**32 - 1), example_batch)
        params = precision.store_params(params)
        # Weak types (`jnp.full(4, 0.1)`) end at the first update: the second step would recompile.
        params, model_state, opt_state = jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)),
            (params, model_state, optimizer.init(precision.optimizer_params(params))),
        )
        return TrainState(
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            base_key=jax.random.key_data(base_key),
            counters=initial_counters(),
            loss_scale=initial_scale(precision),
        )

    return init


def make_micro_gradient(model: Model, precision: Precision) -> Callable[..., Any]:
    """Builds (params, model_state, batch, rng, scaling) -> (summed gradients, Sums, model_state).

    Gradients are of the *sum* of the loss, in float32 and still scaled; whoever has the whole
    weight divides, once. `scaling` is the state's `loss_scale`.
    """

    def micro_loss(
        params: Any, model_state: Any, batch: Batch, rng: jax.Array, scaling: Any
    ) -> Any:
        cast = precision.cast_params(params)
        out = model.loss(cast, model_state, precision.cast_batch(batch), rng, True)
        return scale_loss(out.total.astype(jnp.float32), scaling), out

    def micro_gradient(
        params: Any, model_state: Any, batch: Batch, rng: jax.Array, scaling: Any = ()
    ) -> Any:
        gradient = jax.grad(micro_loss, has_aux=True)
        grads, out = gradient(widen(params), model_state, batch, rng, scaling)
        return cast_floating(grads, jnp.float32), sums_of(out, batch), out.model_state

    return micro_gradient


def make_gradient(model: Model, precision: Precision) -> Callable[..., Any]:
    """Builds (params, model_state, window, rng, scaling) -> (summed gradients, Sums, model_state).

    The window leads with [grad_accumulation_steps, micro_batch]; micro-batches are added in their
    order, and the model state goes from one to the next.
    """
    micro_gradient = make_micro_gradient(model, precision)

    def gradient(
        params: Any, model_state: Any, window: Batch, rng: jax.Array, scaling: Any = ()
    ) -> Any:
        num_micro = jax.tree.leaves(window)[0].shape[0]
        if num_micro == 1:
            batch = jax.tree.map(lambda a: a[0], window)
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

        first = jax.tree.map(lambda a: a[0], window)
        shapes = jax.eval_shape(micro_gradient, params, model_state, first, rng, scaling)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[:2])
        carry, _ = jax.lax.scan(accumulate, (*zeros, model_state), (jnp.arange(num_micro), window))
        return carry

    return gradient


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    precision: Precision,
    max_consecutive_skips: int,
    *,
    growth_period: int = GROWTH_PERIOD,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepOutput]]:
    """Builds `train_step(state, window) -> (state, report)`.

    The guard: a window whose loss or global gradient norm is not finite changes nothing but the
    counters. Then, and after `max_consecutive_skips` such windows in a row, the state freezes: no
    further window changes or counts anything, so that the host may find out late and still find
    everything as it was; see `aetheria.logic.guard`.
    A window of zero weight takes a step that changes no parameter. With float16, a window whose
    loss is finite and whose gradients are not has overflowed: it is skipped and counted as skipped,
    and halves the loss scale; only at the smallest scale does it count towards the limit.

    The optimizer is given the global gradient norm as the extra argument `grad_norm`, so that
    clipping need not read every gradient a second time.
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
    optimizer = optax.with_extra_args_support(optimizer)

    def update(
        state: TrainState, grads: Any, sums: Sums, model_state: Any
    ) -> tuple[TrainState, StepOutput]:
        factor = unscale(jnp.where(sums.weight > 0, 1 / sums.weight, 0), state.loss_scale)
        grad_norm = optax.tree.norm(grads) * factor
        finite_loss = jnp.isfinite(sums.total) & jnp.isfinite(sums.weight)
        finite = finite_loss & jnp.isfinite(grad_norm)
        frozen = is_frozen(state.counters, max_consecutive_skips)

        def apply() -> Any:
            mean = jax.tree.map(lambda g: g * factor, grads)
            updates, opt_state = optimizer.update(
                mean, widen(state.opt_state), widen(state.params), grad_norm=grad_norm
            )
            params = optax.apply_updates(state.params, updates)
            return params, model_state, cast_like(opt_state, state.opt_state)

        def keep() -> Any:
            return state.params, state.model_state, state.opt_state

        # cond, not where on every leaf: it skips the update's work, and is far cheaper on CPU.
        counts = finite & ~frozen & (sums.weight > 0)
        params, model_state, opt_state = jax.lax.cond(counts, apply, keep)
        overflow = finite_loss & ~finite & ~frozen
        forgiven = overflow & can_fall(state.loss_scale)
        counters = jnp.where(frozen, state.counters, count(state.counters, finite, forgiven))
        values = pack_values(
            sums, grad_norm=(grad_norm, jnp.ones(())), **scale_row(state.loss_scale)
        )
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


def make_train_steps(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Builds `train_steps(state, chunk, start, count) -> (state, last report)` of a train step.

    The chunk leads with [num_windows]; `count` of its windows are trained on, from `start` on, in
    one call: where a step takes microseconds, dispatching it takes as long again. Start and count
    are values, not shapes, so that one compilation serves wherever a cadence cuts a chunk.
    """

    def train_steps(state: TrainState, chunk: Batch, start: Any, count: Any) -> Any:
        window = lambda index: jax.tree.map(lambda column: column[index], chunk)
        if jax.tree.leaves(chunk)[0].shape[0] == 1:
            return train_step(state, window(0))
        shapes = jax.eval_shape(train_step, state, window(0))[1]
        no_report = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        body = lambda index, carry: train_step(carry[0], window(index))
        return jax.lax.fori_loop(start, start + count, body, (state, no_report))

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
        params = precision.cast_params(state.params)
        batch = precision.cast_batch(batch)
        key = jax.random.wrap_key_data(state.base_key)
        return sums_of(model.loss(params, state.model_state, batch, key, False), batch)

    return eval_sums


def step_key(base_key: jax.Array, step: jax.Array) -> jax.Array:
    """The key of a step: a function of the run's key data u32 [2] and the step's number."""
    return jax.random.fold_in(jax.random.wrap_key_data(base_key), step)


def sums_of(out: LossOutput, batch: Batch) -> Sums:
    """Takes the sums of a loss output, in float32 whatever the model computed in."""
    as_f32 = lambda a: jnp.asarray(a, jnp.float32)
    return Sums(
        total=as_f32(out.total),
        weight=as_f32(out.weight),
        metrics=jax.tree.map(as_f32, dict(out.metrics)),
        num_examples=(batch["mask"] > 0).sum().astype(jnp.int32),
    )


def pack_values(sums: Sums, **others: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Packs loss, other values and metrics as rows of one f32 array; `value_names` names them."""
    rows = [(sums.total, sums.weight), *others.values()]
    rows += [sums.metrics[name] for name in sorted(sums.metrics)]
    return jnp.stack([jnp.stack([total, weight]) for total, weight in rows])


def value_names(metrics: Mapping[str, Any], *others: str) -> tuple[str, ...]:
    """The row names of `pack_values` for the same arguments."""
    return ("loss", *others, *sorted(metrics))
