"""A report's values as rows of one array: names, sums, and the means made of them on the host."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.errors import AetheriaError
from aetheria.logic.state import Sums


def pack_values(sums: Sums, **others: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Packs loss, other values and metrics as rows of one array; an `Outline` names them."""
    rows = [(sums.total, sums.weight), *others.values()]
    rows += [sums.metrics[name] for name in sorted(sums.metrics)]
    return jnp.stack([jnp.stack([total, weight]) for total, weight in rows])


def metric_names(metrics: Mapping[str, Any], own: Sequence[str]) -> tuple[str, ...]:
    """The names of a model's metrics in the order of `pack_values`.

    Raises:
        AetheriaError: one of them is a name of ours.
    """
    for name in metrics:
        if name in ("loss", *own):
            raise AetheriaError(
                f"metrics: expected names other than {' and '.join(['loss', *own])}, got {name!r}; "
                "these are reported for every model, rename yours"
            )
    return tuple(sorted(metrics))


def means(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Rows (sum, weight) as weighted means by name; of no weight, not a number."""
    return {
        name: float(total / weight) if weight else float("nan")
        for name, (total, weight) in zip(names, values.astype(np.float64), strict=True)
    }
