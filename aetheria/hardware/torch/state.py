"""What the steps of a PyTorch program take, change and give. Computes nothing.

The counterpart of the types in `layout.state`, in whose layout a state is exported.
"""

from dataclasses import InitVar, dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from aetheria.hardware.torch.guard import Numbers
from aetheria.hardware.torch.ranks import GradientSum, Ranks
from aetheria.hardware.torch.reach import UNKNOWN, Reach


@dataclass
class TorchState:
    """Everything on the device that decides the future of a run; changed in place.

    Attributes:
        module: parameters and batch statistics.
        optimizer: with its moments.
        averages: averaged parameters, in the order of the module's; empty if there are none.
        numbers: the guard's, and the number of updates.
        base_key: u32 [2], the run's PRNG key, as JAX keeps it.
        step: the guard's step as the host knows it; ahead of it while the state is frozen.
        params: the module's, in order.
        gradient_sum: the sum of their gradients over the ranks.
        statistics: the module's buffers of floats, in order.
        reach: a bound of everything that an update writes, as far as the host knows it.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    averages: list[Tensor]
    numbers: Numbers
    base_key: np.ndarray
    step: int
    ranks: InitVar[Ranks]
    params: list[nn.Parameter] = field(init=False)
    gradient_sum: GradientSum = field(init=False)
    statistics: list[Tensor] = field(init=False)
    reach: Reach = field(init=False, default=UNKNOWN)

    def __post_init__(self, ranks: Ranks) -> None:
        self.params = list(self.module.parameters())
        self.gradient_sum = GradientSum(self.params, ranks)
        self.statistics = [b for b in self.module.buffers() if b.is_floating_point()]


class TorchReport(NamedTuple):
    """A train report still on the device: rows (sum, weight), and the guard's numbers."""

    values: Tensor
    numbers: Numbers


class TorchTotals(NamedTuple):
    """The rows (sum, weight) of an evaluation so far, of this rank, and its number of examples."""

    values: Tensor
    num_examples: Tensor
