"""Models with PyTorch counterparts, for tests of the PyTorch program."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional as F

from aetheria.model.optimizers import Adam, Optimizer
from aetheria.pytorch import TorchTwin, batch_norm, dense, register_counterpart, weighted
from support.models import LinenNormed


class NormedNetwork(nn.Module):
    """What test_models.NormedLayers is."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 16, bias=False)
        self.norm = nn.BatchNorm1d(16, momentum=0.2)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Linear(16, 1)

    def forward(self, x):
        return self.last(self.dropout(F.relu(self.norm(self.first(x)))))


@dataclass(frozen=True)
class NormedTwin(TorchTwin):
    model: Any

    def network(self):
        return NormedNetwork()

    def rules(self):
        return [
            *dense("first", "Dense_0", bias=False),
            *batch_norm("norm", "BatchNorm_0"),
            *dense("last", "Dense_1"),
        ]

    def loss(self, outputs, batch):
        return weighted((outputs - batch["labels"]) ** 2, batch["mask"])

    def metrics(self, outputs, batch):
        return {"mae": weighted((outputs - batch["labels"]).abs(), batch["mask"])}


@dataclass(frozen=True)
class Twinned(LinenNormed):
    """Dropout, batch statistics, a stateful optimizer, and a PyTorch counterpart."""

    def optimizer(self, total_steps):
        return Optimizer(Adam(), self.learning_rate)


@register_counterpart(Twinned)
def make_counterpart(model, example_batch):
    return NormedTwin(model)
