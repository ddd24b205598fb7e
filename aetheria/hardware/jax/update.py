"""The second half of a step: the guard's verdict on a gradient, and its application.

Knows no model: a gradient, its sums and a new model state are all it is given.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import optax

from aetheria.hardware.jax.choice import choose
from aetheria.hardware.jax.finite import stays_finite
from aetheria.hardware.jax.guard import Guard, Numbers, Verdict
from aetheria.hardware.layout.loss_scale import GROWTH_PERIOD, LossScale, scale_row
from aetheria.hardware.layout.report_rows import counted, pack_values
from aetheria.hardware.layout.state import StepOutput, Sums, TrainState
from aetheria.model.fitting import extra_arguments
from aetheria.model.model import ModelState, Params
from aetheria.model.precision import cast_like, widen

if TYPE_CHECKING:  # most runs have no statistics of layers
    from aetheria.hardware.layout.layer_rows import LayerRows

# (state, summed gradients, sums, model_state) -> (state, report of this step)
UpdateFunction: TypeAlias = Callable[
    [TrainState, Params, Sums, ModelState], tuple[TrainState, StepOutput]
]


def make_update(
    optimizer: optax.GradientTransformation,
    max_consecutive_skips: int,
    *,
    growth_period: int = GROWTH_PERIOD,
    layers: "LayerRows | None" = None,
    branches: bool = True,
) -> UpdateFunction:
    """Builds `update(state, summed gradients, sums, model_state) -> (state, report)`: judges, then
    applies the verdict. With `layers`, the report also has their rows; `branches` as in `choose`.
    """
    guard = Guard(max_consecutive_skips, growth_period, branches)
    optimize = _make_optimize(optimizer)

    def update(
        state: TrainState, grads: Params, sums: Sums, model_state: ModelState
    ) -> tuple[TrainState, StepOutput]:
        # Computed twice: first only for the guard to look at, then to be kept. Keeping the first
        # beside what it replaces takes the memory of a second state, and on a CPU no less time.
        def updated(
            factor: jax.Array, grad_norm: jax.Array, after: jax.Array | None = None
        ) -> tuple[Params, optax.OptState]:
            given = state.params, state.opt_state, grads
            if after is not None and not branches:  # else XLA would keep what the guard looked at
                given, _ = jax.lax.optimization_barrier((given, after))
            return optimize(*given, factor, grad_norm, sums.total / sums.weight)

        def finite_update(factor: jax.Array, grad_norm: jax.Array) -> jax.Array:
            old = state.params, state.opt_state
            return stays_finite(updated(factor, grad_norm), old, state.params)

        verdict = guard.judge(
            Numbers(state.counters, state.loss_scale),
            sums,
            optax.tree.norm(grads),
            finite_state=stays_finite(model_state, state.model_state, state.params),
            finite_update=finite_update,
        )
        report = make_report(verdict, sums, state.loss_scale)
        if layers is not None:
            from aetheria.hardware.jax.layer_statistics import add_layer_rows

            new_params = lambda: updated(verdict.factor, verdict.grad_norm)[0]
            report = add_layer_rows(layers, report, verdict, state, grads, new_params)
        take = lambda: (
            *updated(verdict.factor, verdict.grad_norm, verdict.counts),
            model_state,
        )
        return apply(verdict, state, take, branches), report

    return update


def apply(
    verdict: Verdict,
    state: TrainState,
    take: Callable[[], tuple[Params, optax.OptState, ModelState]],
    branches: bool,
) -> TrainState:
    """Makes the state after a step: what `take` makes where the global batch counts, else the old
    one; the guard's numbers are new in any case.
    """
    keep = lambda: (state.params, state.opt_state, state.model_state)
    params, opt_state, model_state = choose(branches, verdict.counts, take, keep)
    return state._replace(
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        counters=verdict.numbers.counters,
        loss_scale=verdict.numbers.loss_scale,
    )


def make_report(verdict: Verdict, sums: Sums, loss_scale: LossScale) -> StepOutput:
    """Packs the report of one step; `loss_scale` is the one that it was taken with."""
    counts, grad_norm = verdict.counts, verdict.grad_norm
    norm = jnp.where(counts, grad_norm, 0), counts.astype(grad_norm.dtype)
    values = pack_values(counted(counts, sums), grad_norm=norm, **scale_row(loss_scale))
    return StepOutput(values, verdict.numbers.counters)


def _make_optimize(
    optimizer: optax.GradientTransformation,
) -> Callable[..., tuple[Params, optax.OptState]]:
    """Builds the optimizer's part: (params, opt_state, summed gradients, factor, grad_norm, loss)
    -> (params, opt_state).
    """
    takes = extra_arguments(optimizer)

    # jit serves its trace alone, which both uses share: with a thousand parameters, tracing an
    # optimizer takes seconds.
    @jax.jit
    def optimize(
        params: Params,
        state: optax.OptState,
        grads: Params,
        factor: jax.Array,
        grad_norm: jax.Array,
        loss: jax.Array,
    ) -> tuple[Params, optax.OptState]:
        mean = jax.tree.map(lambda g: g * factor, grads)
        extra = {"grad_norm": grad_norm} if "grad_norm" in takes else {}
        extra |= {"value": loss} if "value" in takes else {}
        updates, new = optimizer.update(mean, widen(state), widen(params), **extra)
        return optax.apply_updates(params, updates), cast_like(new, state)

    return optimize
