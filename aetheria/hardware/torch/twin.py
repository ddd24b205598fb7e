"""The contract of a model's PyTorch counterpart: the same network, loss and metrics.

Knows no state, no optimizer and no step.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aetheria.hardware.torch.mapping import Rule


class WeightedSum(NamedTuple):
    """A sum and the weight it was summed over, tensors []."""

    total: Tensor
    weight: Tensor


class TorchTwin(ABC):
    """Template Method: a model's counterpart in PyTorch, see `register_counterpart`.

    The network is a plain `nn.Module` with PyTorch's own names. A batch is a mapping of tensors:
    the columns as the data gave them, floats in the run's precision.
    """

    @abstractmethod
    def network(self) -> nn.Module:
        """Makes the module; its first values do not matter."""

    @abstractmethod
    def rules(self) -> Sequence[Rule]:
        """Maps every leaf of the model's `params` and `model_state` to its tensors."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> WeightedSum:
        """Computes the summed loss of one micro-batch from float32 outputs, or wider."""

    def metrics(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, WeightedSum]:
        """Computes the metrics that the model reports, under the same names."""
        return {}

    def arrange(self, inputs: Tensor) -> Tensor:
        """Turns inputs as the data gives them into what the module takes: for example images from
        [batch, height, width, channel] to [batch, channel, height, width].
        """
        return inputs


def example_weights(batch: Mapping[str, Tensor]) -> Tensor:
    """What each example counts, [batch]: the counterpart of `aetheria.model.tasks.example_weights`.

    >>> example_weights({"mask": torch.tensor([1.0, 0.0]), "weight": torch.tensor([3.0, 3.0])})
    tensor([3., 0.])
    """
    mask = batch["mask"]
    if "weight" not in batch:
        return mask
    return mask.reshape(mask.shape + (1,) * (batch["weight"].dim() - 1)) * batch["weight"]


def weighted(values: Tensor, weights: Tensor) -> WeightedSum:
    """Sums `values` by `weights`: the counterpart of `aetheria.weighted`.

    Args:
        values: [batch, ...], one value for each example (or token).
        weights: [batch] or the shape of `values`; broadcast over the trailing dims.

    >>> weighted(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 1.0, 0.0]))
    WeightedSum(total=tensor(3.), weight=tensor(2.))
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    values = values.to(wide)
    weights = weights.to(wide)  # as JAX sums them: in float64, to its last bit
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    weights = weights.expand(values.shape)
    return WeightedSum((values * weights).sum(), weights.sum())
