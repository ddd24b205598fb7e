"""The train and eval step as pure functions of a state. Knows neither a mesh nor a loop of a run.

A train step reads in this order: the gradient of the global batch, then the update, which judges
it and applies the verdict.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import optax

from aetheria.hardware.jax.gradient import make_gradient, step_key
from aetheria.hardware.jax.update import make_update
from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.evaluation import make_eval_sums
from aetheria.hardware.layout.loss_scale import GROWTH_PERIOD
from aetheria.hardware.layout.report_rows import Adder
from aetheria.hardware.layout.state import StepOutput, Sums, TrainState
from aetheria.model.model import Batch, Model
from aetheria.model.precision import Precision
from aetheria.model.step_number import at_step

if TYPE_CHECKING:  # most runs have no statistics of layers
    from aetheria.hardware.layout.layer_rows import LayerRows

# (state, global batch) -> (state, report of this step)
TrainStep: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, StepOutput]]
# (state, chunk, start, count, rows of the interval so far) -> (state, report of the interval)
TrainSteps: TypeAlias = Callable[
    [TrainState, Batch, jax.Array, jax.Array, jax.Array], tuple[TrainState, StepOutput]
]
EvalStep: TypeAlias = Callable[[TrainState, Batch, Sums], Sums]


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    precision: Precision,
    max_consecutive_skips: int,
    *,
    growth_period: int = GROWTH_PERIOD,
    layers: "LayerRows | None" = None,
    branches: bool = True,
) -> TrainStep:
    """Builds `train_step(state, global_batch) -> (state, report)`.

    The guard: a global batch whose loss or gradient norm is not finite, or whose step would write a
    parameter, an optimizer state or a model state that is not finite, changes nothing but the
    counters. Then, and after `max_consecutive_skips` such global batches in a row, the state
    freezes: no further one changes or counts anything, so that the host may learn of it late and
    still find everything as it was; see `aetheria.hardware.layout.counters`.
    A global batch of zero weight takes a step that changes no parameter. With float16, one whose
    forward pass is finite (its loss and model state) and whose gradients are not has overflowed: it
    is skipped and counted as skipped, and halves the loss scale; only at the smallest scale does it
    count towards the limit.

    An optimizer that takes extra arguments is given `grad_norm`, the global gradient norm, so that
    clipping need not read every gradient a second time, and `value`, the mean loss.

    With `layers`, the report also has their rows; `branches` as `choose` takes it.
    """
    gradient = make_gradient(model, precision)
    update = make_update(
        optimizer,
        max_consecutive_skips,
        growth_period=growth_period,
        layers=layers,
        branches=branches,
    )

    def train_step(state: TrainState, global_batch: Batch) -> tuple[TrainState, StepOutput]:
        step = state.counters[STEP]
        rng = step_key(state.base_key, step)
        with at_step(step):
            grads, sums, model_state = gradient(
                state.params, state.model_state, global_batch, rng, state.loss_scale
            )
        return update(state, grads, sums, model_state)

    return train_step


def make_train_steps(train_step: TrainStep, add: Adder) -> TrainSteps:
    """Builds `train_steps(state, chunk, start, count, rows) -> (state, report)` from a train step;
    `rows` are those of the interval so far, to which `add` adds each step's.

    The chunk leads with [num_global_batches]; `count` of them are trained on, from `start` on, in
    one call: where a step takes microseconds, dispatching it takes as long again. Start and count
    are values, not shapes, so that one compilation serves wherever a cadence cuts a chunk.
    """

    def train_steps(
        state: TrainState, chunk: Batch, start: jax.Array, count: jax.Array, rows: jax.Array
    ) -> tuple[TrainState, StepOutput]:
        def take(
            index: jax.Array | int, carry: tuple[TrainState, StepOutput]
        ) -> tuple[TrainState, StepOutput]:
            global_batch = jax.tree.map(lambda column: column[index], chunk)
            state, report = train_step(carry[0], global_batch)
            return state, StepOutput(add(carry[1].values, report.values), report.counters)

        before = state, StepOutput(rows, jnp.zeros_like(state.counters))
        if jax.tree.leaves(chunk)[0].shape[0] == 1:
            return take(0, before)
        return jax.lax.fori_loop(start, start + count, take, before)

    return train_steps


def make_eval_step(model: Model, precision: Precision) -> EvalStep:
    """Builds `eval_step(state, batch, totals) -> totals`; the batch leads with [batch]."""
    eval_sums = make_eval_sums(model, precision)

    def eval_step(state: TrainState, batch: Batch, totals: Sums) -> Sums:
        return jax.tree.map(jnp.add, totals, eval_sums(state, batch))

    return eval_step
