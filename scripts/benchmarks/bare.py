"""A loop by hand around Aetheria's own network, optimizer, micro-batches, compiler options and
memory: what is left out is the engine, with its guard, records, progress bar and snapshots.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.cpu.memory import keep_freed_memory
from aetheria.model.by_name import make_model
from aetheria.model.precision import Precision
from benchmarks import loop
from benchmarks.report import read_spec


def make_step(spec: dict[str, Any], network: Any, optimizer: Any) -> Any:
    """Builds `step((params, opt_state), inputs, labels, number)`, uncompiled."""
    precision = Precision.parse(spec["config"]["mixed_precision"])
    num_micro = spec["config"]["grad_accumulation_steps"]

    def mean_loss(params: Any, inputs: Any, labels: Any, key: Any) -> Any:
        variables = {"params": precision.cast_params(params)}
        inputs = precision.cast_batch({"inputs": inputs})["inputs"]
        logits = network.apply(variables, inputs, train=True, rngs={"dropout": key})
        logits = logits.astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def gradient(params: Any, inputs: Any, labels: Any, key: Any) -> Any:
        value_and_grad = jax.value_and_grad(mean_loss)
        if num_micro == 1:
            return value_and_grad(params, inputs, labels, key)

        def add(total: Any, item: Any) -> Any:
            index, *columns = item
            new = value_and_grad(params, *columns, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, new), None

        cut = lambda a: a.reshape(num_micro, -1, *a.shape[1:])
        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(num_micro), cut(inputs), cut(labels)))
        return jax.tree.map(lambda a: a / num_micro, total)

    def step(state: Any, inputs: Any, labels: Any, number: Any) -> Any:
        params, opt_state = state
        key = jax.random.fold_in(jax.random.key(0), number)
        loss, grads = gradient(params, inputs, labels, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return step


def run(jit: Any) -> None:
    """Measures a step compiled by `jit`."""
    spec = read_spec()
    model = make_model(spec["config"]["model_name"], spec["model"], None)
    network = model.network()  # type: ignore[attr-defined]
    optimizer = model.optimizer(spec["warmup"] + spec["num_steps"])
    inputs, _ = next(loop.batches(spec["data"], 1))
    params = network.init(jax.random.key(0), inputs, train=False)["params"]
    step = jit(make_step(spec, network, optimizer), donate_argnums=0)
    loop.measure(spec, step, (params, optimizer.init(params)), params)


if __name__ == "__main__":
    keep_freed_memory(os.environ)
    run(jit_for(jax.devices()[0].platform))
