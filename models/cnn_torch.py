"""SimpleCNN in PyTorch."""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn import functional as F

from aetheria.pytorch import (
    Rule,
    TorchTwin,
    batch_norm,
    conv2d,
    dense,
    example_weights,
    register_counterpart,
    weighted,
)

from .cnn import SimpleCNN


class Network(nn.Module):
    """[batch, channel, height, width] -> [batch, num_classes]."""

    def __init__(self, channels: list[int], num_features: int, model: SimpleCNN):
        super().__init__()
        bias = not model.batch_norm
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 5, padding="same", bias=bias) for pair in pairs)
        self.hidden = nn.Linear(num_features, model.hidden_dim, bias=bias)
        self.dropout = nn.Dropout(model.dropout)
        self.head = nn.Linear(model.hidden_dim, model.num_classes)
        # PyTorch's momentum is the weight of the new statistics, 1 minus Flax's.
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
    """The counterpart of a SimpleCNN, with the tensors `convs.<i>`, `hidden` and `head`, and with
    batch norm `norms.<i>` and `hidden_norm`.

    Attributes:
        model: the SimpleCNN.
        image_shape: (height, width, channel) of the data's images.
    """

    model: SimpleCNN
    image_shape: tuple[int, int, int]

    @property
    def features(self) -> tuple[int, int, int]:
        """(height, width, channel) after the convolutions."""
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
        # Flax flattens [height, width, channel], PyTorch [channel, height, width].
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
        return weighted(loss, example_weights(batch))

    def metrics(self, outputs, batch):
        return {"accuracy": weighted(outputs.argmax(-1) == batch["labels"], example_weights(batch))}


def _infer_inputs(model, shapes):
    """Assumes square images whose sides are halved without a remainder."""
    first, hidden = shapes.get("convs.0.weight"), shapes.get("hidden.weight")
    if first is None or hidden is None:
        return None
    side = math.isqrt(hidden[1] // model.conv_dims[-1]) << len(model.conv_dims)
    return (side, side, first[1]), "float32"


@register_counterpart(SimpleCNN, infer_inputs=_infer_inputs)
def make_counterpart(model, example_batch):
    """Makes the counterpart of a SimpleCNN for images of the shape of the batch's."""
    return Twin(model, example_batch["inputs"].shape[1:])
