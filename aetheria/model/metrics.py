"""Weighted sums: the form in which losses and metrics add up over batches and devices."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from aetheria.errors import ModelError
from aetheria.model.model import WeightedSum
from aetheria.model.precision import at_least_float32
from aetheria.plugins.user_code import calling_place

Shape = tuple[int, ...]


class BroadcastError(ModelError):
    """Values that are not one for each example."""


def weighted(values: jax.Array, weights: jax.Array) -> WeightedSum:
    """Sums `values` by `weights`, in float32 or wider.

    Args:
        values: [batch, ...], one value an example (or a token).
        weights: [batch] or the shape of `values`; broadcast over the trailing dims.

    Raises:
        ModelError: the weights do not belong to the values, which are already a mean, or of shape
            [batch, batch] since [batch, 1] met [batch].

    >>> import numpy as np
    >>> weighted(np.array([1.0, 2.0, 9.0]), np.array([1.0, 1.0, 0.0]))
    WeightedSum(total=Array(3., dtype=float32), weight=Array(2., dtype=float32))
    """
    values = at_least_float32(values)
    weights = jnp.asarray(weights, values.dtype)
    _check_shapes(values.shape, weights.shape)
    if (trace := _TRACE.get()) is not None:
        trace.see(values.shape, weights.shape)
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    weights = jnp.broadcast_to(weights, values.shape)
    return WeightedSum((values * weights).sum(), weights.sum())


@dataclass
class TracedShapes:
    """The shapes that `weighted` is called with while a loss is traced.

    By its shape alone [8, 8] may be tokens of 8 examples, or a square that broadcasting made of
    8 and 8. The square grows with the batch in both dims, so another batch size tells.

    Attributes:
        batch: the batch that is traced.
        calls: the shapes of values and of weights, of each call.
        other_size: a number of examples that no other dim has; None: any shape is right.
    """

    batch: Mapping[str, Any]
    calls: list[tuple[Shape, Shape]] = field(default_factory=list)
    other_size: int | None = None

    def see(self, values: Shape, weights: Shape) -> None:
        """Notes a call.

        Raises:
            BroadcastError: a dim over which the weights are broadcast is as long as the batch.
        """
        self.calls.append((values, weights))
        if self.other_size in _broadcast_dims(values, weights):
            raise BroadcastError(_message(_as_batch(values, self.other_size), ["batch"]))

    def other_batch(self) -> Mapping[str, Any] | None:
        """An abstract batch of another size; None if no shape is in doubt."""
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

    def compare(self, trace: Callable[[], Any]) -> None:
        """Raises BroadcastError if a trace with `other_batch` shows a square."""
        token = _TRACE.set(self)
        try:
            trace()
        except BroadcastError:
            raise
        except Exception:
            return  # a loss for one size of batch, of which this cannot be known
        finally:
            _TRACE.reset(token)


_TRACE: ContextVar[TracedShapes | None] = ContextVar("traced shapes of weighted", default=None)


@contextlib.contextmanager
def traced_shapes(batch: Mapping[str, Any]) -> Iterator[TracedShapes]:
    """Collects what `weighted` is called with in here."""
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


def _message(values: Any, weights: Any) -> str:
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
    """The lengths of the dims, but for the first, over which weights are broadcast."""
    padded = weights + (1,) * (len(values) - len(weights))
    return [v for v, w in list(zip(values, padded, strict=True))[1:] if w == 1]


def _as_batch(dims: Shape, size: int | None) -> list[Any]:
    return ["batch" if dim == size else dim for dim in dims]
