"""The sums of one evaluation batch, and the parameters that a state is evaluated with.

Knows neither a mesh nor how batches are added up.
"""

from collections.abc import Callable

import jax

from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.state import Sums, TrainState, sums_of
from aetheria.model.averaging import AverageState
from aetheria.model.contract import call_hook, check_tallies
from aetheria.model.model import Batch, Model
from aetheria.model.precision import Precision
from aetheria.model.step_number import at_step


def make_eval_sums(model: Model, precision: Precision) -> Callable[[TrainState, Batch], Sums]:
    """Builds `(state, batch) -> Sums` of one evaluation batch."""

    def eval_sums(state: TrainState, batch: Batch) -> Sums:
        params = precision.cast_params(evaluated(state).params)
        batch = precision.cast_batch(batch)
        key = jax.random.wrap_key_data(state.base_key)
        with at_step(state.counters[STEP]):
            sums = sums_of(model.loss(params, state.model_state, batch, key, False), batch)
            tallies = call_hook(model, "tallies", params, state.model_state, batch)
        return sums._replace(tallies=check_tallies(model, tallies, sums.metrics))

    return eval_sums


def evaluated(state: TrainState) -> TrainState:
    """Gives a state the parameters it is evaluated with: the averaged ones, if there are any."""
    nodes = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, AverageState))
    averages = [node for node in nodes if isinstance(node, AverageState)]
    return state._replace(params=averages[0].averaged_params) if averages else state
