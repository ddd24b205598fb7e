"""Pure steps for a loop of one's own: of a model, or of gradients that a caller has computed.

All of them may be jitted, with the state donated, and called inside a larger function. Nothing here
waits for a device.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aetheria.config import MAX_WHOLE, Config
from aetheria.errors import AetheriaError
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.gradient import make_gradient
from aetheria.hardware.jax.gradient import step_key as _step_key
from aetheria.hardware.jax.guard import is_frozen, unfreeze
from aetheria.hardware.jax.update import make_update as make_guarded_update
from aetheria.hardware.layout.counters import NUM_SKIPPED, STEP, initial_counters
from aetheria.hardware.layout.evaluation import make_eval_sums
from aetheria.hardware.layout.pretrained import make_initial_state
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.report_rows import LOSS_SCALE, means, pack_values
from aetheria.hardware.layout.signature import make_signature
from aetheria.hardware.layout.state import StepOutput, Sums, TrainState
from aetheria.model.fitting import fit_optimizer, optimizer_of
from aetheria.model.model import Batch, Model, ModelState, Params
from aetheria.model.precision import Precision
from aetheria.model.step_number import at_step
from aetheria.model.tallies import finished

MAX_CONSECUTIVE_SKIPS = Config(model_name="").max_consecutive_skips


class StepReport(NamedTuple):
    """What one update says; all values are on the device.

    Attributes:
        metrics: name -> f32 []: `loss`, `grad_norm` (of the mean gradient, before it is clipped)
            and, of a model's step, the model's metrics; NaN where nothing was counted.
        skipped: bool [], whether the guard found something that was not finite: the update then
            changed nothing but the counters.
        stopped: bool [], whether so many updates in a row were skipped that no further one changes
            anything. The loop should end.
    """

    metrics: Mapping[str, jax.Array]
    skipped: jax.Array
    stopped: jax.Array


# (seed, example batch) -> state of step 0
Init: TypeAlias = Callable[[int, Batch], TrainState]
TrainStep: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, StepReport]]
EvalStep: TypeAlias = Callable[[TrainState, Batch], Sums]
# (state, mean gradient, mean loss[, model state]) -> (state, report)
Update: TypeAlias = Callable[..., tuple[TrainState, StepReport]]


def jit(function: Callable[..., Any], **options: Any) -> jax.stages.Wrapped:
    """`jax.jit` as `aetheria train` compiles: sums whose order no number of threads changes, maxima
    that keep a NaN, and convolutions of a CPU in its fast form.

    Args:
        function: takes and returns arrays.
        options: any of `jax.jit`, such as `donate_argnums`.
    """
    return jit_for(jax.default_backend())(function, **options)


def make_init(model: Model, total_steps: int, *, mixed_precision: bool | str = False) -> Init:
    """Builds `init(seed, example_batch) -> state`; it tries the hooks of the model on the batch.

    Args:
        model: what to train.
        total_steps: the length of the run, for the model's schedule.
        mixed_precision: as the config's key.

    Raises (the function that is built):
        AetheriaError: the model does not fit the data; the hook is named.
    """
    precision = Precision.parse(mixed_precision)

    def init(seed: int, example_batch: Batch) -> TrainState:
        spec = ProgramSpec(
            example_global_batch={name: np.asarray(a)[None] for name, a in example_batch.items()},
            total_steps=total_steps,
            seed=seed,
            mixed_precision=mixed_precision,
            max_consecutive_skips=MAX_CONSECUTIVE_SKIPS,
        )
        optimizer = make_signature(model, spec).optimizer
        key = jax.random.key(seed)
        state = make_initial_state(model, optimizer, precision, jit, key, dict(example_batch))
        return _never_frozen(state)

    return init


def make_train_step(
    model: Model,
    total_steps: int,
    *,
    grad_accumulation_steps: int = 1,
    mixed_precision: bool | str = False,
    max_consecutive_skips: int = MAX_CONSECUTIVE_SKIPS,
) -> TrainStep:
    """Builds `train_step(state, batch) -> (state, report)`: the step of `aetheria train`, where a
    batch that is not finite is skipped.

    The batch has columns [batch_size, ...] and `mask`, f32 [batch_size], as `Batches` serves them.

    Args:
        model: what to train.
        total_steps: the length of the run, for the model's schedule.
        grad_accumulation_steps: micro-batches that a batch is cut into; it divides the batch size.
        mixed_precision: as the config's key.
        max_consecutive_skips: skips in a row after which no step changes anything.
    """
    precision = Precision.parse(mixed_precision)
    optimizer = optimizer_of(model, total_steps)
    gradient = make_gradient(model, precision)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepReport]:
        fitted = fit_optimizer(model, optimizer, state.params, state.opt_state)
        update = make_guarded_update(fitted, max_consecutive_skips, branches=_branches())
        cut = {
            name: _cut(name, jnp.asarray(column), grad_accumulation_steps)
            for name, column in batch.items()
        }
        with at_step(state.counters[STEP]):
            grads, sums, model_state = gradient(
                state.params, state.model_state, cut, step_key(state), state.loss_scale
            )
        own = ["loss", "grad_norm", *([LOSS_SCALE] if precision.scales_loss else [])]
        new, output = update(state, grads, sums, model_state)
        names = [*own, *sorted(sums.metrics)]
        return new, _report(names, output, state, max_consecutive_skips)

    return train_step


def make_eval_step(model: Model, *, mixed_precision: bool | str = False) -> EvalStep:
    """Builds `eval_step(state, batch) -> sums`, for `mean_metrics`."""
    return make_eval_sums(model, Precision.parse(mixed_precision))


def mean_metrics(sums: Iterable[Sums]) -> dict[str, float]:
    """Adds what evaluation steps returned and makes metrics of it: loss, the model's metrics, and
    what its tallies come to. Waits for the device.

    Raises:
        AetheriaError: there were no sums.
    """
    parts = list(sums)
    if not parts:
        raise AetheriaError(
            "mean_metrics: expected the sums of at least one batch, got none; give what "
            "eval_step returned for each batch"
        )
    total = reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)
    names = ["loss", *sorted(total.metrics)]
    return means(names, np.asarray(pack_values(total))) | finished(jax.device_get(total.tallies))


def make_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    seed: int = 0,
    model_state: ModelState | None = None,
) -> TrainState:
    """Makes a state of step 0 of parameters and an optimizer, for `make_update`.

    Args:
        params: a tree of arrays.
        optimizer: of optax.
        seed: of the state's key; see `step_key`.
        model_state: what changes without a gradient, such as batch statistics; None: nothing.
    """
    state = TrainState(
        params=jax.tree.map(jnp.asarray, params),
        model_state={} if model_state is None else model_state,
        opt_state=optimizer.init(params),
        base_key=jax.random.key_data(jax.random.key(seed)),
        counters=initial_counters(),
    )
    return _never_frozen(state)


def make_update(
    optimizer: optax.GradientTransformation, *, max_consecutive_skips: int = MAX_CONSECUTIVE_SKIPS
) -> Update:
    """Builds `update(state, grads, loss, model_state=None) -> (state, report)`: one step of an
    optimizer behind the guard.

    `grads` is the mean gradient, a tree as the parameters, and `loss` f32 [] the mean loss. If one
    of them, or what the step would write, is not finite, nothing changes but the counters. An
    optimizer whose update takes `value` gets the loss. `model_state` replaces the state's.

    Args:
        optimizer: the one that the state was made with.
        max_consecutive_skips: skips in a row after which no update changes anything.
    """
    guarded = make_guarded_update(optimizer, max_consecutive_skips, branches=_branches())

    def update(
        state: TrainState, grads: Params, loss: jax.Array, model_state: ModelState | None = None
    ) -> tuple[TrainState, StepReport]:
        sums = Sums(
            total=jnp.asarray(loss),
            weight=jnp.ones((), jnp.result_type(loss)),
            metrics={},
            num_examples=jnp.int32(0),
        )
        new, output = guarded(
            state, grads, sums, state.model_state if model_state is None else model_state
        )
        return new, _report(["loss", "grad_norm"], output, state, max_consecutive_skips)

    return update


def step_key(state: TrainState) -> jax.Array:
    """The PRNG key of the next step, a function of the state's seed and of how many steps were
    taken. A resumed loop has the same keys.
    """
    return _step_key(state.base_key, state.counters[STEP])


def _branches() -> bool:
    return jax.default_backend() == "cpu"


def _never_frozen(state: TrainState) -> TrainState:
    """A skipped batch freezes a state until the host has looked; nothing looks here."""
    return state._replace(counters=unfreeze(state.counters, jnp.int32(MAX_WHOLE)))


def _cut(name: str, column: jax.Array, parts: int) -> jax.Array:
    if column.shape[0] % parts:
        raise AetheriaError(
            f"grad_accumulation_steps: expected a divisor of the batch size {column.shape[0]} "
            f"(column {name!r}), got {parts}; change one of them"
        )
    return column.reshape((parts, column.shape[0] // parts, *column.shape[1:]))


def _report(
    names: list[str], output: StepOutput, before: TrainState, max_consecutive_skips: int
) -> StepReport:
    rows = zip(names, output.values, strict=True)
    return StepReport(
        metrics={name: total / weight for name, (total, weight) in rows},
        skipped=output.counters[NUM_SKIPPED] > before.counters[NUM_SKIPPED],
        stopped=is_frozen(output.counters, max_consecutive_skips),
    )
