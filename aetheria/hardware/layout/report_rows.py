"""A report's values as rows of one array: names, sums, and the means made of them on the host.

Knows neither the step that made them nor who reads them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.errors import AetheriaError
from aetheria.hardware.layout.state import Sums
from aetheria.hardware.layout.trees import Tree

LOSS_SCALE = "loss_scale"

# (rows of an interval so far, rows of the next step) -> rows, each [rows, 2].
Adder: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def pack_values(sums: Sums, **others: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Packs loss, other values and metrics as rows (sum, weight) of one array, in the order in
    which a `ProgramSignature` names them.
    """
    rows = [(sums.total, sums.weight), *others.values()]
    rows += [sums.metrics[name] for name in sorted(sums.metrics)]
    return jnp.stack([jnp.stack([total, weight]) for total, weight in rows])


def counted(counts: jax.Array, sums: Sums) -> Sums:
    """Keeps the sums of a global batch that changed anything; of one that did not, zeros."""
    return jax.tree.map(lambda value: jnp.where(counts, value, 0), sums)


def make_adder(names: Sequence[str]) -> Adder:
    """Builds `(rows of an interval so far, rows of the next step) -> rows`, both [rows, 2]. The
    loss scale is the next step's: a mean of scales would not be a scale.
    """
    latest = np.array([[name in latest_names(names)] for name in names])

    def add(before: jax.Array, values: jax.Array) -> jax.Array:
        total = before + values.astype(before.dtype)
        return jnp.where(latest, values.astype(before.dtype), total) if latest.any() else total

    return add


def latest_names(names: Sequence[str]) -> tuple[str, ...]:
    """Those that are no mean over the interval."""
    return tuple(name for name in names if name == LOSS_SCALE)


def no_rows(names: Sequence[str], *, wide: bool) -> np.ndarray:
    """Makes the rows of no step: f32 [rows, 2], or f64 where parameters are."""
    return np.zeros((len(names), 2), np.float64 if wide else np.float32)


def sums_by_name(names: Sequence[str], values: np.ndarray) -> dict[str, list[float]]:
    """Turns rows into JSON values: name -> [sum, weight]."""
    return dict(zip(names, values.astype(np.float64).tolist(), strict=True))


def rows_by_name(
    names: Sequence[str], sums: Mapping[str, Sequence[float]], like: np.ndarray
) -> np.ndarray:
    """The inverse of `sums_by_name`; a name that is not there has had no step."""
    return np.array([sums.get(name, (0.0, 0.0)) for name in names], like.dtype)


def metric_names(metrics: Mapping[str, Tree], own: Sequence[str]) -> tuple[str, ...]:
    """Lists the names of a model's metrics in the order of `pack_values`.

    Raises:
        AetheriaError: one of them is a name that every report has.
    """
    for name in metrics:
        if name in ("loss", *own):
            raise AetheriaError(
                f"metrics: expected names other than {' and '.join(['loss', *own])}, got {name!r}; "
                "these are reported for every model, rename yours"
            )
    return tuple(sorted(metrics))


def means(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Turns rows (sum, weight) into weighted means by name; NaN where the weight is 0."""
    return {
        name: float(total / weight) if weight else float("nan")
        for name, (total, weight) in zip(names, values.astype(np.float64), strict=True)
    }
