"""Which leaves of a file a model takes, and which it does not. Knows no file."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.errors import SnapshotError
from aetheria.hardware.layout.trees import Array

_MAX_NAMED = 4  # leaves of one kind, in a message


class Match(NamedTuple):
    """A model's leaves, compared with those of a file.

    Attributes:
        arrays: leaf path -> array in the model's dtype, of what fits.
        missing: paths that the file lacks.
        left_over: paths that the model lacks.
        unlike: path and the two shapes and dtypes, where these differ.
    """

    arrays: Mapping[str, np.ndarray]
    missing: Sequence[str]
    left_over: Sequence[str]
    unlike: Sequence[str]

    @property
    def is_whole(self) -> bool:
        """Whether every leaf of either has its match."""
        return not (self.missing or self.left_over or self.unlike)

    def report(self) -> str:
        """What matched and what did not, in one line."""
        kinds = {
            "missing in the file": self.missing,
            "left over": self.left_over,
            "of another shape or dtype": self.unlike,
        }
        rest = [f"{len(v)} {name} ({_listed(v)})" for name, v in kinds.items() if v]
        return ", ".join([f"{len(self.arrays)} leaves that match", *rest])

    def check(self, where: str, *, partial: bool, option: str) -> None:
        """Raises SnapshotError unless every leaf matches; of `partial`, unless any does.

        Args:
            where: what to call the file.
            partial: whether the model may keep leaves of its own.
            option: how the caller says so.
        """
        if not self.arrays or not (partial or self.is_whole):
            do = f"give {option} to keep the model's own values elsewhere"
            raise SnapshotError(
                f"{where}: expected the leaves of the model, got {self.report()}; "
                f"{do if self.arrays else 'give the model that it was made by'}"
            )


def match_leaves(
    given: Mapping[str, Array], expected: Mapping[str, jax.ShapeDtypeStruct | np.ndarray]
) -> Match:
    """Compares the leaves of a file with those of a model.

    Args:
        given: leaf path -> array, of the file.
        expected: leaf path -> shape and dtype, of the model. A float of another width is cast.
    """
    arrays: dict[str, np.ndarray] = {}
    unlike = []
    for path in (path for path in expected if path in given):
        have, want = given[path], expected[path]
        floats = all(jnp.issubdtype(dtype, jnp.floating) for dtype in (have.dtype, want.dtype))
        if tuple(have.shape) == tuple(want.shape) and (floats or have.dtype == want.dtype):
            arrays[path] = np.asarray(have).astype(want.dtype)
        else:
            texts = [f"{each.dtype}{list(each.shape)}" for each in (have, want)]
            unlike.append(f"{path!r}: {texts[0]} in the file, {texts[1]} in the model")
    missing = [repr(path) for path in expected if path not in given]
    left_over = [repr(path) for path in given if path not in expected]
    return Match(arrays, missing, left_over, unlike)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join([*names[:_MAX_NAMED], *([f"{more} more"] if more > 0 else [])])
