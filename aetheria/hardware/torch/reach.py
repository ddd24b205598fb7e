"""How large a step may make what it writes: a bound that is known before anything is written.

PyTorch's optimizers write in place, so an update that is not finite is seen only when it is done,
and undoing it would need a copy of the whole state. The supported rules are few, and each writes
numbers that a few maxima bound: where the bound is finite, so is the update. JAX's counterpart is
`jax.finite`, which looks at the update itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aetheria.errors import AetheriaError
from aetheria.hardware.torch.guard import Flag, Number
from aetheria.model.optimizers import SGD, Adam, AdamW, Lion, UpdateRule

_ROOM = 16.0  # sums are rounded, and an average is made of differences


class Reach(NamedTuple):
    """The largest magnitude of any element; plain numbers, or tensors f64 [].

    Attributes:
        params: of the parameters and their averages.
        first: of the first moments (Adam's, Lion's, or momentum).
        second: of Adam's second moments.
    """

    params: Number
    first: Number
    second: Number


UNKNOWN = Reach(float("inf"), float("inf"), float("inf"))


class Bound:
    """How much one rule may enlarge a state.

    Args:
        rule: how parameters are updated.
        dtype: of the parameters.

    Raises:
        AetheriaError: Adam without an epsilon, which divides 0 by 0 where a gradient is 0.
    """

    def __init__(self, rule: UpdateRule, dtype: torch.dtype):
        if isinstance(rule, AdamW | Adam) and not rule.eps > 0:
            raise AetheriaError(
                f"optimizer: expected with 'torch' an eps greater than 0, got {rule.eps}; where a "
                "gradient is 0 the update would be 0 / 0"
            )
        self._rule, self._limit = rule, torch.finfo(dtype).max / _ROOM

    def after(self, before: Reach, grad: Number, rate: Number) -> Reach:
        """Bounds the reach of a state after an update.

        Args:
            before: the state's, or a larger one.
            grad: the gradient's norm, which bounds every element of it.
            rate: the learning rate.
        """
        rule, rate = self._rule, abs(rate)
        first, second, decay = before.first + grad, before.second, 0.0
        match rule:
            case AdamW() | Adam():
                # Both moments are means, so neither exceeds its old value plus the new term.
                second = before.second + grad * grad
                step = first / ((1 - rule.b1) * rule.eps)
            case Lion():
                step = 1.0
            case SGD():
                first = abs(rule.momentum) * before.first + grad
                step = first + grad
        decay = rate * abs(getattr(rule, "weight_decay", 0.0))
        return Reach(before.params * (1 + decay) + rate * step, first, second)

    def is_finite(self, reach: Reach) -> Flag:
        """Whether the dtype can represent all of it."""
        inside = [size < self._limit for size in reach]  # False for a NaN
        return inside[0] & inside[1] & inside[2]


def reach_of(params: Sequence[Tensor], states: Sequence[dict[str, Tensor]]) -> Reach:
    """Measures a state: its parameters with their averages, and an optimizer's state of each."""
    named = lambda *names: [state[name] for state in states for name in names if name in state]
    return Reach(
        _largest(params),
        _largest(named("exp_avg", "momentum_buffer")),
        _largest(named("exp_avg_sq")),
    )


def _largest(tensors: Sequence[Tensor]) -> Number:
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return 0.0
    return torch.stack([t.abs().amax() for t in tensors]).amax().double()
