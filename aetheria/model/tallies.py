"""Metrics that are no mean: counts that add up over batches and devices, and what is made of them.

The F1 score of a split is not the mean of its batches' F1 scores. So a batch gives counts, such as
its confusion matrix; these are added, on any number of devices, and the host computes the score
once, from the counts of all examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np


@runtime_checkable
class Finish(Protocol):
    """What is made of counts. A frozen dataclass: compiled programs are told apart by it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers it makes, without `eval/`."""
        ...

    def __call__(self, counts: np.ndarray) -> list[float]:
        """Makes them; NaN where the counts do not say, such as the F1 score of no example."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tally:
    """Counts of a batch, and what is made of those of a whole split.

    Attributes:
        counts: f32 [...], sums over examples; those of two batches are added.
        finish: makes numbers of the sum, on the host.
    """

    counts: jax.Array
    finish: Finish = field(metadata={"static": True})


Tallies: TypeAlias = Mapping[str, Tally]


def finished_names(tallies: Tallies) -> tuple[str, ...]:
    """What `finished` will report."""
    return tuple(name for key in sorted(tallies) for name in tallies[key].finish.names)


def finished(tallies: Tallies) -> dict[str, float]:
    """Makes the numbers of all tallies, whose counts are NumPy arrays."""
    made: dict[str, float] = {}
    for key in sorted(tallies):
        finish, counts = tallies[key].finish, np.asarray(tallies[key].counts, np.float64)
        made |= dict(zip(finish.names, map(float, finish(counts)), strict=True))
    return made
