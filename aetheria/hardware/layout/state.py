"""What a step takes and gives: the train state, sums over micro-batches, a report.

Knows the model's hooks and no device. The PyTorch backend keeps a state of its own and exports it
in this layout.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from aetheria.hardware.layout.counters import initial_counters
from aetheria.hardware.layout.loss_scale import LossScale, initial_scale
from aetheria.model.contract import call_hook, check_init, in_hook
from aetheria.model.model import Batch, LossOutput, Model, ModelState, Params, WeightedSum
from aetheria.model.nesting import nested_columns
from aetheria.model.precision import FLOAT32, Precision, at_least_float32
from aetheria.model.tallies import Tallies


class TrainState(NamedTuple):
    """Everything on the device that decides the future of a run.

    A named tuple, with the key as plain data: a step of a small model spends most of its time in
    JAX's dispatch, which is slower for a dataclass and for typed keys.

    Attributes:
        params: the model's parameters, f32 unless the policy says otherwise.
        model_state: batch statistics and the like.
        opt_state: the optimizer's state.
        base_key: u32 [2], the data of the run's PRNG key; never split, only folded with the step.
        counters: i32 [6], the guard's; see `aetheria.hardware.layout.counters`.
        loss_scale: f32 [2] where the compute dtype is float16, else `()`: no leaf, at no cost.
    """

    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    base_key: jax.Array
    counters: jax.Array
    loss_scale: LossScale = ()


class Sums(NamedTuple):
    """Sums over micro-batches: the loss, its weight, the metrics, the real examples, and in an
    evaluation what the model counts beside these.
    """

    total: jax.Array
    weight: jax.Array
    metrics: Mapping[str, tuple[jax.Array, jax.Array] | WeightedSum]
    num_examples: jax.Array
    tallies: Tallies = {}  # noqa: RUF012 (never changed)


class StepOutput(NamedTuple):
    """A train report still on the device.

    Attributes:
        values: f32 [2 + metrics, 2], a (sum, weight) row for loss, grad_norm and each metric, over
            those steps of the interval so far that changed anything; with float16, after grad_norm,
            one for the scale that the last step was taken with.
        counters: i32 [6], as in TrainState.
    """

    values: jax.Array
    counters: jax.Array


def init_options(platform: str) -> dict[str, int]:
    """The compiler's options for `make_init`, which runs once: those that compile it faster.

    Random bits are thousands of operations, of which LLVM's level 2 makes the same numbers as its
    default, 3, in half the time: SimpleMLP 1.7 s for 3.2 s, SimpleCNN 2.1 s for 4.5 s (jax 0.10.2).
    With level 1, a train step had other bits.
    """
    return {"xla_backend_optimization_level": 2} if platform == "cpu" else {}


def make_init(
    model: Model, optimizer: optax.GradientTransformation, precision: Precision = FLOAT32
) -> Callable[[jax.Array, Batch], TrainState]:
    """Builds the function (base key, example batch) -> state of step 0."""
    first_state = make_first_state(model, optimizer, precision)

    def init(base_key: jax.Array, example_batch: Batch) -> TrainState:
        return first_state(base_key, *init_weights(model, base_key, example_batch))

    return init


def init_weights(
    model: Model, base_key: jax.Array, example_batch: Batch
) -> tuple[Params, ModelState]:
    """Calls the model's `init`."""
    # Step s folds s >= 0 into the key; initialization folds a number that no step reaches.
    key, batch = jax.random.fold_in(base_key, 2**32 - 1), nested_columns(example_batch)
    return check_init(model, call_hook(model, "init", key, batch))


def make_first_state(
    model: Model, optimizer: optax.GradientTransformation, precision: Precision = FLOAT32
) -> Callable[[jax.Array, Params, ModelState], TrainState]:
    """Builds the function (base key, params, model_state) -> state of step 0."""

    def first_state(base_key: jax.Array, params: Params, model_state: ModelState) -> TrainState:
        params = precision.store_params(params)
        model_state = precision.store_model_state(model_state)
        with in_hook(model, "optimizer"):
            opt_state = optimizer.init(precision.optimizer_params(params))
        # Weak types (`jnp.full(4, 0.1)`) end at the first update; the second step would recompile.
        params, model_state, opt_state = jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)),
            (params, model_state, opt_state),
        )
        return TrainState(
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            base_key=jax.random.key_data(base_key),
            counters=initial_counters(),
            loss_scale=initial_scale(precision),
        )

    return first_state


def is_pretrained(model: Model) -> bool:
    """Whether the model starts from other weights than those that its `init` makes."""
    return type(model).pretrained is not Model.pretrained


def sums_of(out: LossOutput, batch: Batch) -> Sums:
    """Takes the sums of a loss output, in float32 or wider whatever the model computed in."""
    return Sums(
        total=at_least_float32(out.total),
        weight=at_least_float32(out.weight),
        metrics=jax.tree.map(at_least_float32, dict(out.metrics)),
        num_examples=(batch["mask"] > 0).sum().astype(jnp.int32),
    )
