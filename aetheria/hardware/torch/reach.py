"""How large a step may make what it writes: a bound that is known before anything is written.

PyTorch's optimizers write in place, so that an update that is not finite can only be seen when it
is done, and a copy of the whole state would be needed to undo it. The rules that are realised are
few, and each writes numbers that a few maxima bound: where the bound is finite, so is the update.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aetheria.errors import AetheriaError
from aetheria.model.optimizers import SGD, Adam, AdamW, Lion, UpdateRule

_ROOM = 16.0  # sums are rounded, and an average is made of differences


class Reach(NamedTuple):
    """The largest magnitude of any element; plain numbers, or tensors f64 [].

    Attributes:
        params: of the parameters and their averages.
        first: of the first moments (Adam's, Lion's, or momentum).
        second: of Adam's second moments.
    """

    params: Any
    first: Any
    second: Any


UNKNOWN = Reach(float("inf"), float("inf"), float("inf"))


class Bound:
    """What one rule may make of a state.

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

    def after(self, before: Reach, grad: Any, rate: Any) -> Reach:
        """The reach of a state after an update.

        Args:
            before: the state's, or more.
            grad: the gradient's norm, which no element of it is greater than.
            rate: the learning rate.
        """
        rule, rate = self._rule, abs(rate)
        first, second, decay = before.first + grad, before.second, 0.0
        match rule:
            case AdamW() | Adam():
                # Both moments are means, so neither grows beyond what it was and what comes.
                second = before.second + grad * grad
                step = first / ((1 - rule.b1) * rule.eps)
            case Lion():
                step = 1.0
            case SGD():
                first = abs(rule.momentum) * before.first + grad
                step = first + grad
        decay = rate * abs(getattr(rule, "weight_decay", 0.0))
        return Reach(before.params * (1 + decay) + rate * step, first, second)

    def is_finite(self, reach: Reach) -> Any:
        """Whether all of it is a number of the dtype."""
        inside = [size < self._limit for size in reach]  # a NaN is not
        return inside[0] & inside[1] & inside[2]


def reach_of(params: Sequence[Tensor], states: Sequence[dict[str, Tensor]]) -> Reach:
    """Reads it off a state: parameters with their averages, and what an optimizer has of each."""
    named = lambda *names: [state[name] for state in states for name in names if name in state]
    return Reach(
        _largest(params),
        _largest(named("exp_avg", "momentum_buffer")),
        _largest(named("exp_avg_sq")),
    )


def _largest(tensors: Sequence[Tensor]) -> Any:
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return 0.0
    return torch.stack([t.abs().amax() for t in tensors]).amax().double()
