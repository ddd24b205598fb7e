"""The rows that a step computes of each layer. Decides nothing, and changes nothing.

Loaded by a run that asks for them alone.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from aetheria.hardware.jax.guard import Verdict
from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.layer_rows import LayerRows, Part
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.layout.state import StepOutput, TrainState
from aetheria.model.model import Params
from aetheria.model.precision import widen


def add_layer_rows(
    layers: LayerRows,
    report: StepOutput,
    verdict: Verdict,
    state: TrainState,
    grads: Params,
    new_params: Callable[[], Params],
) -> StepOutput:
    """Adds the rows of the layers to the report of a step.

    Args:
        layers: what to compute, and when.
        report: of the step.
        verdict: on its global batch.
        state: before the step.
        grads: summed, scaled gradients.
        new_params: the parameters after the step. They are computed once more, in the logged steps
            alone: what the step itself keeps is then the same program with these rows and without.
    """
    dtype = report.values.dtype

    def measure() -> jax.Array:
        mean = jax.tree.map(lambda grad: grad * verdict.factor, grads)
        return _measure(layers, mean, state.params, new_params()).astype(dtype)

    is_due = verdict.counts & (verdict.numbers.counters[STEP] % layers.every_steps == 0)
    nothing = lambda: jnp.zeros((len(layers.names), 2), dtype)
    rows = jax.lax.cond(is_due, measure, nothing)
    return StepOutput(jnp.concatenate([report.values, rows]), report.counters)


def _measure(layers: LayerRows, grads: Params, old: Params, new: Params) -> jax.Array:
    named = [named_leaves(widen(tree)) for tree in (grads, old, new)]
    rows = [jnp.zeros((0, 2))]
    for parts in layers.layers.values():
        grad, before, after = ([_take(leaves, part) for part in parts] for leaves in named)
        update = [a - b for a, b in zip(after, before, strict=True)]
        norms = [optax.tree.norm(values) for values in (grad, update, before)]
        one = jnp.ones_like(norms[0])
        weights = jnp.stack([one, one, one, norms[2]])
        rows.append(jnp.stack([jnp.stack([*norms, norms[1]]), weights], axis=1))
        if layers.num_bins:
            counted = [_histogram(values, layers.num_bins) for values in (grad, update)]
            rows += [jnp.stack([counts, jnp.ones_like(counts)], axis=1) for counts in counted]
    return jnp.concatenate(rows)


def _take(leaves: Mapping[str, jax.Array], part: Part) -> jax.Array:
    leaf = leaves[part.path]
    return leaf if part.layer is None else leaf[part.layer]


def _histogram(values: Sequence[jax.Array], num_bins: int) -> jax.Array:
    """Counts elements in bins of equal width: f [2 + num_bins], the smallest and the largest value,
    then the counts. Of equal values, the bins are 1 wide in all.
    """
    low = jnp.stack([value.min() for value in values]).min()
    high = jnp.stack([value.max() for value in values]).max()
    low, high = jnp.where(low == high, low - 0.5, low), jnp.where(low == high, high + 0.5, high)

    def count_below(edge: jax.Array) -> jax.Array:
        counts = [(value < edge).sum().astype(low.dtype) for value in values]
        return jnp.stack(counts).sum()

    # Comparisons with one edge after the other, which split arrays add up wherever they lie; a
    # scatter into bins would gather them.
    inner = low + (high - low) * jnp.arange(1, num_bins, dtype=low.dtype) / num_bins
    size = jnp.full(1, sum(value.size for value in values), low.dtype)
    below = jnp.concatenate([jnp.zeros(1, low.dtype), jax.lax.map(count_below, inner), size])
    return jnp.concatenate([jnp.stack([low, high]), jnp.diff(below)])
