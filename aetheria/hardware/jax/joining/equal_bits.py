"""Which batch sizes of a model give a row the same bits, measured.

XLA chooses another order of summation for another shape: on a CPU, one row is a product of a matrix
and a vector, two rows are one of two matrices. A row's answer may so depend on how many rows are
computed with it, in the last bits. Calls are joined only where it does not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from aetheria.hardware.jax.prediction import num_rows

Tree = Any
BucketSets = Mapping[int, frozenset[int]]


def measure_equal_buckets(
    compute: Callable[[Tree], Tree], probe: Tree, *, min_rows: int
) -> BucketSets:
    """Computes the same rows at every batch size and compares the bits.

    Args:
        compute: answers a batch of rows, each row on its own account.
        probe: rows like those of training; their number, a power of two, is the largest size.
        min_rows: the smallest size, a power of two.

    Returns:
        Batch size -> all sizes of equal bits. A size is in none, not even its own, if a row's
        answer depends on its place or on the other rows, as that of a model does which normalizes
        over the batch.
    """
    max_rows = num_rows(probe)
    moved = jax.tree.map(lambda column: np.roll(column, 1, axis=0), probe)
    answers: dict[int, Tree] = {}
    size = min_rows
    while size <= max_rows:
        answer = compute(_rows(probe, slice(0, size)))
        shifted = compute(_rows(moved, slice(0, size)))
        if _equal(_rows(shifted, slice(1, None)), _rows(answer, slice(0, size - 1))):
            answers[size] = answer
        size *= 2
    groups: list[list[int]] = []
    for size, answer in answers.items():
        same = [g for g in groups if _equal(answers[g[0]], _rows(answer, slice(0, g[0])))]
        same[0].append(size) if same else groups.append([size])
    return {size: frozenset(group) for group in groups for size in group}


def probe_rows(
    spec: Tree, ranges: Mapping[str, tuple[float, float]], how_many: int, seed: int = 0
) -> Tree:
    """Makes rows as a model was trained on: numbers of the range of training, small whole numbers.

    Args:
        spec: shape and dtype of a batch of one example, or a mapping of them.
        ranges: name of a column, such as `inputs/image` -> its smallest and largest value.
        how_many: the number of rows.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)

    def make(path: Any, column: Any) -> np.ndarray:
        shape, kind = (how_many, *column.shape[1:]), np.dtype(column.dtype).kind
        if kind in "iu":
            return rng.integers(0, 2, shape).astype(column.dtype)
        if kind == "b":
            return rng.random(shape) < 0.5
        low, high = ranges.get("/".join(["inputs", *(str(key.key) for key in path)]), (0.0, 1.0))
        return rng.uniform(low, high, shape).astype(column.dtype)

    return jax.tree_util.tree_map_with_path(make, spec)


def _rows(tree: Tree, cut: slice) -> Tree:
    return jax.tree.map(lambda leaf: leaf[cut], tree)


def _equal(tree: Tree, other: Tree) -> bool:
    """Whether all bits are equal; of a NaN, too."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
