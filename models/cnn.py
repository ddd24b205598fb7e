"""A convolutional classifier of images."""

from dataclasses import dataclass

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from aetheria import Classifier, register_model
from aetheria.errors import AetheriaError


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of each 2x2 square: [batch, height, width, channel] -> half of each side.

    An odd last row or column is left out. Where there is none, a reshape and a reduction give the
    same values as `nn.max_pool` and are faster: a step of the CNN takes 41 ms instead of 57 (XLA's
    CPU backend, jax 0.10.2, two cores).
    """
    batch, height, width, channels = x.shape
    # In float64 the gradient of the fast form was wrong behind batch norm, by half or not a number,
    # compared with finite differences and PyTorch; in float32 both forms agree (jax 0.10.2, CPU).
    if height % 2 or width % 2 or x.dtype == "float64":
        return nn.max_pool(x, (2, 2), (2, 2))
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


class _Layers(nn.Module):
    model: "SimpleCNN"

    @nn.compact
    def __call__(self, x, train):
        model = self.model
        for channels in model.conv_dims:
            x = nn.Conv(channels, (5, 5), use_bias=not model.batch_norm)(x)
            x = max_pool(nn.relu(self._norm(x, train)))
        x = nn.Dense(model.hidden_dim, use_bias=not model.batch_norm)(x.reshape(x.shape[0], -1))
        x = nn.relu(self._norm(x, train))
        x = nn.Dropout(model.dropout, deterministic=not train)(x)
        return nn.Dense(model.num_classes)(x)

    def _norm(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(x) if self.model.batch_norm else x


@register_model("SimpleCNN")
@dataclass(frozen=True)
class SimpleCNN(Classifier):
    """5x5 convolutions, each with a ReLU and 2x2 max pooling, then two dense layers. Inputs f32
    [batch, height, width, channel]; labels i32 [batch].

    Outputs f32 [batch, num_classes] logits.

    With `batch_norm`, each layer but the last is normalized over its micro-batch before the ReLU
    (Ioffe & Szegedy, arXiv:1502.03167), so the size of the micro-batch matters. In training, the
    statistics count padding, which repeats the last example of a global batch, as examples: choose
    a `batch_size` that divides the training split to have none (see "Padding" in docs/config.md).
    """

    conv_dims: tuple[int, ...] = (32, 64)
    hidden_dim: int = 256
    num_classes: int = 10
    dropout: float = 0.0
    batch_norm: bool = False

    def network(self):
        return _Layers(self)

    def init(self, rng, example_batch):
        shape, smallest = example_batch["inputs"].shape[1:], 2 ** len(self.conv_dims)
        if len(shape) != 3 or min(shape[:2]) < smallest:
            raise AetheriaError(
                f"data_name: expected inputs [height, width, channel] of at least {smallest} x "
                f"{smallest} pixels, which {len(self.conv_dims)} poolings halve to one, got "
                f"{list(shape)}; use a dataset of images, or fewer conv_dims"
            )
        return super().init(rng, example_batch)

    def partition_rules(self):
        # The numbers of image channels and of classes belong to the data and may not divide.
        both = ("fsdp", "tensor")
        convs = [(r"Conv_\d+/kernel", PartitionSpec(None, None, None, both))]
        return [
            *(convs if self.conv_dims else []),
            ("Dense_0/kernel", PartitionSpec(None, both)),
            ("Dense_1/kernel", PartitionSpec(both)),
        ]
