"""Weighted sums: the form in which losses and metrics add up over batches and devices."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Shaped

from aetheria.errors import ModelError
from aetheria.model.model import Batch, WeightedSum
from aetheria.model.precision import at_least_float32
from aetheria.plugins.user_code import calling_place

Shape: TypeAlias = tuple[int, ...]


class BroadcastError(ModelError):
    """Values that are not one for each example."""


def weighted(
    values: Shaped[ArrayLike, "*values"], weights: Shaped[ArrayLike, "*weights"]
) -> WeightedSum:
    """Sums `values` by `weights`, in float32 or wider.

    Args:
        values: [batch, ...], one value an example (or a token).
        weights: [batch] or the shape of `values`; broadcast over the trailing dims.

    Returns:
        The sum of values times weights, and the sum of the weights.

    Raises:
        ModelError: the weights do not fit the values, which are already a mean, or have the shape
            [batch, batch] because [batch, 1] was combined with [batch].

    >>> import numpy as np
    >>> weighted(np.array([1.0, 2.0, 9.0]), np.array([1.0, 1.0, 0.0]))
    WeightedSum(total=Array(3., dtype=float32), weight=Array(2., dtype=float32))
    """
    wide = at_least_float32(values)
    weights = jnp.asarray(weights, wide.dtype)
    _check_shapes(wide.shape, weights.shape)
    if (trace := _TRACE.get()) is not None:
        trace.see(wide.shape, weights.shape)
    weights = weights.reshape(weights.shape + (1,) * (wide.ndim - weights.ndim))
    weights = jnp.broadcast_to(weights, wide.shape)
    return WeightedSum((wide * weights).sum(), weights.sum())


@dataclass
class TracedShapes:
    """The shapes that `weighted` is called with while a loss is traced.

    A shape [8, 8] alone may be tokens of 8 examples, or a square that broadcasting made of 8 and 8.
    The square grows with the batch in both dims, so a trace with another batch size tells them
    apart.

    Attributes:
        batch: the batch that is traced.
        calls: the shapes of values and of weights, for each call.
        other_size: a number of examples that no other dim has; None: every shape is accepted.
    """

    batch: Batch
    calls: list[tuple[Shape, Shape]] = field(default_factory=list)
    other_size: int | None = None

    def see(self, values: Shape, weights: Shape) -> None:
        """Records a call.

        Raises:
            BroadcastError: a dim over which the weights are broadcast is as long as the batch.
        """
        self.calls.append((values, weights))
        if self.other_size in _broadcast_dims(values, weights):
            raise BroadcastError(_message(_named(values, self.other_size), ["batch"]))

    def other_batch(self) -> Batch | None:
        """Returns an abstract batch of another size; None if no shape is in doubt."""
        size = len(self.batch["mask"])
        if size == 1 or not any(size in _broadcast_dims(*call) for call in self.calls):
            return None
        taken = {dim for column in self.batch.values() for dim in column.shape[1:]}
        taken |= {dim for values, _ in self.calls for dim in values}
        self.other_size = next(n for n in itertools.count(2 * size, size) if n not in taken)
        return {
            name: jax.ShapeDtypeStruct((self.other_size, *column.shape[1:]), column.dtype)
            for name, column in self.batch.items()
        }

    def compare(self, trace: Callable[[], object]) -> None:
        """Calls `trace`, which traces the loss with `other_batch`.

        Raises:
            BroadcastError: the trace shows a square.
        """
        token = _TRACE.set(self)
        try:
            trace()
        except BroadcastError:
            raise
        except Exception:
            return  # the loss accepts one batch size alone, so another tells nothing
        finally:
            _TRACE.reset(token)


_TRACE: ContextVar[TracedShapes | None] = ContextVar("traced shapes of weighted", default=None)


@contextlib.contextmanager
def traced_shapes(batch: Batch) -> Iterator[TracedShapes]:
    """Collects the shapes that `weighted` is called with in the body."""
    shapes = TracedShapes(batch)
    token = _TRACE.set(shapes)
    try:
        yield shapes
    finally:
        _TRACE.reset(token)


def _check_shapes(values: Shape, weights: Shape) -> None:
    fits = len(weights) <= len(values) and all(
        w == v or (w == 1 and place > 0)
        for place, (v, w) in enumerate(zip(values, weights, strict=False))
    )
    if not fits:
        raise BroadcastError(_message(values, weights))


def _message(values: Sequence[int | str], weights: Sequence[int | str]) -> str:
    shape = lambda dims: f"[{', '.join(map(str, dims))}]"
    place = calling_place(sys._getframe(1))
    if not values:
        use = "give the values themselves, not their mean or sum"
    elif values[:1] == values[1:2]:
        use = "[batch, 1] and [batch] broadcast to a square; index or squeeze the first"
    else:
        use = "give one value an example"
    at = f"{place}: " if place else ""
    return (
        f"{at}weighted: expected values whose shape begins with that of the weights, "
        f"{shape(weights)}, and does not repeat the batch, got {shape(values)}; {use}"
    )


def _broadcast_dims(values: Shape, weights: Shape) -> list[int]:
    """Returns the lengths of the dims, except the first, over which weights are broadcast."""
    padded = weights + (1,) * (len(values) - len(weights))
    return [v for v, w in list(zip(values, padded, strict=True))[1:] if w == 1]


def _named(dims: Shape, batch_size: int | None) -> list[int | str]:
    return ["batch" if dim == batch_size else dim for dim in dims]
