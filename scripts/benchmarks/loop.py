"""The asynchronous loop that the two hand-written contestants share."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.report import Stopwatch, write_speed


def batches(file: str, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and labels [batch_size, ...], shuffled anew in each pass, for ever."""
    with np.load(file) as columns:
        inputs, labels = columns["inputs"], columns["labels"]
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(len(inputs))
        for start in range(0, len(inputs) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            yield inputs[rows], labels[rows]


def measure(spec: dict[str, Any], step: Callable[..., Any], state: Any, params: Any) -> None:
    """Times `step(state, inputs, labels, number) -> (state, loss)`, never waiting in between."""
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]  # the first step may donate them
    feed, watch, loss = batches(spec["data"], spec["config"]["batch_size"]), Stopwatch(), None
    for number in range(spec["warmup"] + spec["num_steps"]):
        if number == spec["warmup"]:
            jax.block_until_ready(loss)
            watch.start()
        state, loss = step(state, *next(feed), number)
    jax.block_until_ready((state, loss))
    watch.stop()
    assert loss is not None, "at least one step"
    write_speed(
        spec,
        num_steps=spec["num_steps"],
        times=watch.times,
        num_params=sum(sizes),
        loss=float(loss),
        packages=("jax", "flax", "optax"),
    )
