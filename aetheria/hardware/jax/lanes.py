"""Lanes: the fixed slices of every global batch whose results are added in one fixed tree.

A lane is the unit of elastic reproducibility. The number of lanes is part of the config, the number
of devices is not: a lane gives the same numbers wherever it is computed, and additions in one order
give the same sum. This module knows one device; `lane_sum` adds over several.

Source: the idea of logical workers is EasyScale's (Li et al., SC 2023, arXiv:2208.14228).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import jax
import jax.numpy as jnp
import optax

from aetheria.hardware.jax.gradient import make_micro_gradient, step_key
from aetheria.hardware.jax.state import LaneSums
from aetheria.hardware.jax.update import make_update
from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.loss_scale import GROWTH_PERIOD
from aetheria.hardware.layout.report_rows import Adder
from aetheria.hardware.layout.state import StepOutput, TrainState
from aetheria.model.model import Batch, Model
from aetheria.model.precision import Precision, at_least_float32
from aetheria.model.step_number import at_step

if TYPE_CHECKING:  # most runs have no statistics of layers
    from aetheria.hardware.layout.layer_rows import LayerRows

Item = TypeVar("Item")


def make_lane_gradient(
    model: Model, precision: Precision
) -> Callable[[TrainState, jax.Array, Batch], LaneSums]:
    """Builds (state, lane number i32 [], batch [slice_size, ...]) -> LaneSums of that lane.

    Every lane begins with the same model state and has a key of its own.
    """
    micro_gradient = make_micro_gradient(model, precision)

    def lane_gradient(state: TrainState, lane: jax.Array, batch: Batch) -> LaneSums:
        step = state.counters[STEP]
        rng = jax.random.fold_in(step_key(state.base_key, step), lane)
        with at_step(step):
            grads, sums, new = micro_gradient(
                state.params, state.model_state, batch, rng, state.loss_scale
            )
        share = sums.num_examples

        def weigh(new: jax.Array, old: jax.Array) -> jax.Array:
            if jnp.issubdtype(new.dtype, jnp.inexact):
                return jnp.where(share > 0, at_least_float32(new) * share, 0)
            return jnp.where(share > 0, new, old)

        lane_sums = LaneSums(grads, sums, jax.tree.map(weigh, new, state.model_state))
        return jax.tree.map(lambda a: a[None], lane_sums)

    return lane_gradient


def add_lanes(one: LaneSums, other: LaneSums) -> LaneSums:
    """Adds leaf by leaf. Of a model state's whole numbers, such as counts, the larger one stays."""
    merge = lambda a, b: a + b if jnp.issubdtype(a.dtype, jnp.inexact) else jnp.maximum(a, b)
    return LaneSums(
        jax.tree.map(jnp.add, one.grads, other.grads),
        jax.tree.map(jnp.add, one.sums, other.sums),
        jax.tree.map(merge, one.model_state, other.model_state),
    )


def make_lane_update(
    optimizer: optax.GradientTransformation,
    max_consecutive_skips: int,
    add: Adder,
    *,
    growth_period: int = GROWTH_PERIOD,
    layers: "LayerRows | None" = None,
    branches: bool = True,
) -> Callable[[TrainState, LaneSums, jax.Array], tuple[TrainState, StepOutput]]:
    """Builds `update(state, sums of all lanes, rows) -> (state, report)`: the train step's second
    half; `rows` are those of the interval so far, to which `add` adds this step's, with `layers`
    also theirs; `branches` as `choose` takes it.

    The new model state is the mean of the lanes', weighted by their examples.
    """
    update = make_update(
        optimizer,
        max_consecutive_skips,
        growth_period=growth_period,
        layers=layers,
        branches=branches,
    )

    def lane_update(
        state: TrainState, total: LaneSums, rows: jax.Array
    ) -> tuple[TrainState, StepOutput]:
        lanes = jax.tree.map(lambda a: a[0], total)
        num_examples = jnp.maximum(lanes.sums.num_examples, 1)

        def mean(total: jax.Array, old: jax.Array) -> jax.Array:
            if jnp.issubdtype(old.dtype, jnp.inexact):
                return (total / num_examples).astype(old.dtype)
            return total

        model_state = jax.tree.map(mean, lanes.model_state, state.model_state)
        state, report = update(state, lanes.grads, lanes.sums, model_state)
        return state, StepOutput(add(rows, report.values), report.counters)

    return lane_update


def tree_sum(items: Iterable[Item], add: Callable[[Item, Item], Item]) -> Item:
    """Adds in a balanced binary tree, keeping few items at a time.

    Args:
        items: a power of two of them.
        add: called with neighbours only, the earlier one first.

    >>> tree_sum("abcdefgh", lambda a, b: f"({a}{b})")
    '(((ab)(cd))((ef)(gh)))'
    """
    pending: list[tuple[int, Item]] = []
    for item in items:
        size = 1
        while pending and pending[-1][0] == size:
            item = add(pending.pop()[1], item)
            size *= 2
        pending.append((size, item))
    ((_, total),) = pending
    return total
