"""What the guard costs: Aetheria's compiled step, and the same step without the finite check and
the `lax.cond`, in many short bouts of one process, so that a machine's drift meets both alike.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aetheria.config import make_config
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.gradient import make_gradient, step_key
from aetheria.hardware.jax.step import make_train_step, make_train_steps
from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.report_rows import pack_values
from aetheria.hardware.layout.state import StepOutput, TrainState
from aetheria.model.precision import Precision
from benchmarks.bouts import compare
from benchmarks.programs import TOTAL_STEPS, make_parts
from benchmarks.report import read_spec, write


def make_unguarded_step(model: Any, optimizer: Any, precision: Precision) -> Callable[..., Any]:
    """Builds a train step that does all that Aetheria's does, but whatever the numbers are."""
    gradient = make_gradient(model, precision)
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, global_batch: Any) -> Any:
        rng = step_key(state.base_key, state.counters[STEP])
        grads, sums, model_state = gradient(state.params, state.model_state, global_batch, rng)
        factor = jnp.where(sums.weight > 0, 1 / sums.weight, 0)
        grad_norm = optax.tree.norm(grads) * factor
        mean = jax.tree.map(lambda g: g * factor, grads)
        updates, opt_state = optimizer.update(
            mean, state.opt_state, state.params, grad_norm=grad_norm
        )
        counters = state.counters.at[STEP].add(1)
        values = pack_values(sums, grad_norm=(grad_norm, jnp.ones(())))
        state = state._replace(
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            counters=counters,
        )
        return state, StepOutput(values, counters)

    return train_step


class Bout:
    """A step compiled as Aetheria compiles it, with a state and a chunk of windows of its own."""

    def __init__(self, train_step: Any, state: Any, chunk: Any, rows: Any):
        jit = jit_for(jax.devices()[0].platform)
        steps = make_train_steps(jax.jit(train_step), jnp.add)
        self._steps = jit(steps, donate_argnums=0)
        self._state, self._chunk, self._rows = state, chunk, rows
        self.run(2)

    def run(self, num_calls: int) -> float:
        """Takes that many calls of the whole chunk; returns seconds."""
        started_at = time.perf_counter()
        for _ in range(num_calls):
            self._state, _ = self._steps(
                self._state, self._chunk.arrays, 0, len(self._chunk.num_examples), self._rows
            )
        jax.block_until_ready(self._state)
        return time.perf_counter() - started_at


def make_bouts(spec: dict[str, Any]) -> tuple[Bout, Bout]:
    """Compiles the step with the guard, and the step without."""
    config = make_config(spec["config"], "bench")
    model, feed, program = make_parts(config)
    optimizer, precision = model.optimizer(TOTAL_STEPS), Precision.parse(config.mixed_precision)
    chunk = next(feed.train_chunks(0, program.steps_per_call))
    on_cpu = jax.devices()[0].platform == "cpu"
    guarded = make_train_step(
        model, optimizer, precision, config.max_consecutive_skips, branches=on_cpu
    )
    unguarded = make_unguarded_step(model, optimizer, precision)
    make = lambda step: Bout(step, program.init(), chunk, program.no_rows)
    return make(guarded), make(unguarded)


def main() -> None:
    """Measures."""
    spec = read_spec()
    guarded, unguarded = make_bouts(spec)
    write(spec, {"guarded_over_unguarded": compare(guarded.run, unguarded.run)})


if __name__ == "__main__":
    main()
