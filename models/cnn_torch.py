"""SimpleCNN in PyTorch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn import functional as F

from aetheria.pytorch import Rule, TorchTwin, batch_norm, conv2d, dense, weighted


class Network(nn.Module):
    """[batch, channel, height, width] -> [batch, num_classes]."""

    def __init__(self, channels: list[int], num_features: int, model: Any):
        super().__init__()
        bias = not model.batch_norm
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 5, padding="same", bias=bias) for pair in pairs)
        self.hidden = nn.Linear(num_features, model.hidden_dim, bias=bias)
        self.dropout = nn.Dropout(model.dropout)
        self.head = nn.Linear(model.hidden_dim, model.num_classes)
        # PyTorch's momentum is how much of a batch's statistics is taken, 1 minus Flax's.
        norms = [nn.BatchNorm2d(size, eps=1e-5, momentum=0.01) for size in channels[1:]]
        self.norms = nn.ModuleList(norms if model.batch_norm else [])
        last = nn.BatchNorm1d(model.hidden_dim, eps=1e-5, momentum=0.01)
        self.hidden_norm = last if model.batch_norm else nn.Identity()

    def forward(self, x):
        for index, conv in enumerate(self.convs):
            x = conv(x)
            x = self.norms[index](x) if self.norms else x
            x = F.max_pool2d(F.relu(x), 2)
        x = F.relu(self.hidden_norm(self.hidden(x.flatten(1))))
        return self.head(self.dropout(x))


@dataclass(frozen=True)
class Twin(TorchTwin):
    """Of a SimpleCNN: `convs.<i>`, `hidden` and `head`; with batch norm `norms.<i>` and
    `hidden_norm`.

    Attributes:
        model: the SimpleCNN.
        image_shape: (height, width, channel) of the data's images.
    """

    model: Any
    image_shape: tuple[int, int, int]

    @property
    def features(self) -> tuple[int, int, int]:
        """(height, width, channel) behind the convolutions."""
        height, width, channels = self.image_shape
        halves = len(self.model.conv_dims)
        return height >> halves, width >> halves, (channels, *self.model.conv_dims)[-1]

    def network(self):
        height, width, channels = self.features
        dims = [self.image_shape[2], *self.model.conv_dims]
        return Network(dims, height * width * channels, self.model)

    def rules(self):
        model, bias = self.model, not self.model.batch_norm
        rules = []
        for index in range(len(model.conv_dims)):
            rules += conv2d(f"convs.{index}", f"Conv_{index}", bias=bias)
            if model.batch_norm:
                rules += batch_norm(f"norms.{index}", f"BatchNorm_{index}")
        # Flattened here is [height, width, channel], there [channel, height, width].
        kernel, *rest = dense("hidden", "Dense_0", bias=bias)
        view = (*self.features, model.hidden_dim)
        rules += [Rule(leaf=kernel.leaf, name=kernel.name, view=view, dims=(3, 2, 0, 1)), *rest]
        if model.batch_norm:
            rules += batch_norm("hidden_norm", f"BatchNorm_{len(model.conv_dims)}")
        return [*rules, *dense("head", "Dense_1")]

    def arrange(self, inputs):
        return inputs.permute(0, 3, 1, 2)

    def loss(self, outputs, batch):
        loss = F.cross_entropy(outputs, batch["labels"].long(), reduction="none")
        return weighted(loss, batch["mask"])

    def metrics(self, outputs, batch):
        return {"accuracy": weighted(outputs.argmax(-1) == batch["labels"], batch["mask"])}
