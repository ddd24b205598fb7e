"""A convolutional classifier of images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import optax
from flax import linen as nn
from jax.sharding import PartitionSpec

from aetheria import Classes, LinenModel, register_model, weighted
from aetheria.errors import AetheriaError
from aetheria.model.optimizers import AdamW, Optimizer, warmup_cosine


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the largest of each 2x2 square: [batch, height, width, channel] -> half of each side.

    An odd last row or column is left out. Where there is none, reshaping and reducing gives the
    same values as `nn.max_pool`, and a step of the CNN takes 41 ms instead of 57 with it (XLA's
    CPU backend, jax 0.10.2, two cores).
    """
    batch, height, width, channels = x.shape
    # In float64 that form's gradient was wrong behind batch norm, by half or not a number, against
    # finite differences and PyTorch; in float32 both forms give the same (jax 0.10.2, CPU).
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
        x = nn.Dense(model.hidden_dim, use_bias=not model.batch_norm)(x.reshape(len(x), -1))
        x = nn.relu(self._norm(x, train))
        x = nn.Dropout(model.dropout, deterministic=not train)(x)
        return nn.Dense(model.num_classes)(x)

    def _norm(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(x) if self.model.batch_norm else x


@register_model("SimpleCNN")
@dataclass(frozen=True)
class SimpleCNN(LinenModel):
    """5x5 convolutions, each with a ReLU and 2x2 max pooling, then two dense layers. Inputs f32
    [batch, height, width, channel]; labels i32 [batch].

    Outputs f32 [batch, num_classes] logits. Optimized by AdamW under a warm-up and a cosine, the
    gradient clipped to `max_grad_norm` (0: not clipped).

    With `batch_norm`, each layer but the last is normalized by its micro-batch before the ReLU
    (Ioffe & Szegedy, arXiv:1502.03167), so that its size matters. In training its statistics count
    padding, which repeats the last example of a window, as examples: choose a `batch_size` that
    divides the training split to have none (see "Padding" in docs/config.md).
    """

    conv_dims: tuple[int, ...] = (32, 64)
    hidden_dim: int = 256
    num_classes: int = 10
    dropout: float = 0.0
    batch_norm: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0

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

    def class_columns(self):
        return {"labels": Classes(self.num_classes)}

    def score(self, outputs, batch):
        labels, mask = batch["labels"], batch["mask"]
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return weighted(loss, mask), {"accuracy": weighted(outputs.argmax(-1) == labels, mask)}

    def probabilities(self, outputs):
        return nn.softmax(outputs)

    def partition_rules(self) -> Sequence[tuple[str, PartitionSpec]]:
        # Of the images and the classes no dim is split: these are the data's, and may not divide.
        both = ("fsdp", "tensor")
        convs = (
            [(r"Conv_\d+/kernel", PartitionSpec(None, None, None, both))] if self.conv_dims else []
        )
        return [
            *convs,
            ("Dense_0/kernel", PartitionSpec(None, both)),
            ("Dense_1/kernel", PartitionSpec(both)),
        ]

    def torch_twin(self, example_batch):
        from aetheria.models.cnn_torch import Twin

        return Twin(self, example_batch["inputs"].shape[1:])

    def torch_inputs(self, shapes):
        """Takes images to be square, and their sides to be halved without a rest."""
        first, hidden = shapes.get("convs.0.weight"), shapes.get("hidden.weight")
        if first is None or hidden is None:
            return None
        side = math.isqrt(hidden[1] // self.conv_dims[-1]) << len(self.conv_dims)
        return (side, side, first[1]), "float32"

    def optimizer(self, total_steps):
        return Optimizer(
            AdamW(weight_decay=self.weight_decay),
            warmup_cosine(self.learning_rate, total_steps),
            max_grad_norm=self.max_grad_norm,
            ema_decay=self.ema_decay,
        )
