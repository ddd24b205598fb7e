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

# Bytes of parameters and optimizer state. To select takes up to as much memory again; where there
# is more, a step takes far longer than the host waits for a branch.
_MOST_SELECTED = 2**28


def make_update(
    optimizer: optax.GradientTransformation,
    max_consecutive_skips: int,
    *,
    growth_period: int = GROWTH_PERIOD,
    layers: "LayerRows | None" = None,
    branches: bool = True,
) -> UpdateFunction:
    """Builds `update(state, summed gradients, sums, model_state) -> (state, report)`: judges, then
    applies the verdict. With `layers`, the report also has their rows; `branches` as in `choose`,
    except that a large state always branches.
    """
    optimize = _make_optimize(optimizer)

    def update(
        state: TrainState, grads: Params, sums: Sums, model_state: ModelState
    ) -> tuple[TrainState, StepOutput]:
        learned = jax.tree.leaves((state.params, state.opt_state))
        branch = branches or sum(leaf.nbytes for leaf in learned) > _MOST_SELECTED
        guard = Guard(max_consecutive_skips, growth_period, branch)

        # Computed twice: first only for the guard to look at, then to be kept. Keeping the first
        # beside what it replaces takes the memory of a second state, and on a CPU no less time.
        def updated(
            state: TrainState, grads: Params, factor: jax.Array, grad_norm: jax.Array
        ) -> tuple[Params, optax.OptState]:
            loss = sums.total / sums.weight
            return optimize(state.params, state.opt_state, grads, factor, grad_norm, loss)

        def finite_update(factor: jax.Array, grad_norm: jax.Array) -> jax.Array:
            new, old = updated(state, grads, factor, grad_norm), (state.params, state.opt_state)
            return stays_finite(new, old, state.params)

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

            new_params = lambda: updated(state, grads, verdict.factor, verdict.grad_norm)[0]
            report = add_layer_rows(layers, report, verdict, state, grads, new_params)
        if not branch:  # else XLA would keep what the guard has looked at
            state, grads, _ = jax.lax.optimization_barrier((state, grads, verdict.counts))
        take = lambda: (*updated(state, grads, verdict.factor, verdict.grad_norm), model_state)
        return apply(verdict, state, take, branch), report

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
