"""A multilayer perceptron for vectors: a classifier, or with `num_classes` 0 a regressor."""

from dataclasses import dataclass

import optax
from flax import linen as nn
from jax.sharding import PartitionSpec

from aetheria import Classes, LinenModel, register_model, weighted
from aetheria.errors import AetheriaError
from aetheria.model.optimizers import AdamW, Optimizer, warmup_cosine


class _Layers(nn.Module):
    hidden_dim: int
    num_layers: int
    num_outputs: int
    dropout: float

    @nn.compact
    def __call__(self, x, train):
        for _ in range(self.num_layers):
            x = nn.relu(nn.Dense(self.hidden_dim)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_outputs)(x)


@register_model("SimpleMLP")
@dataclass(frozen=True)
class SimpleMLP(LinenModel):
    """Inputs f32 [batch, input_dim]; labels i32 [batch], or f32 [batch] or [batch, 1]
    to regress on.

    Outputs f32 [batch, num_classes] logits, or [batch, 1]. Optimized by AdamW under a warm-up and
    a cosine, the gradient clipped to `max_grad_norm` (0: not clipped).
    """

    input_dim: int = 10
    hidden_dim: int = 128
    num_layers: int = 1
    num_classes: int = 0
    dropout: float = 0.0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0

    def network(self):
        return _Layers(self.hidden_dim, self.num_layers, self.num_classes or 1, self.dropout)

    def init(self, rng, example_batch):
        if (shape := example_batch["inputs"].shape[1:]) != (self.input_dim,):
            raise AetheriaError(
                f"model_params.input_dim: expected {'x'.join(map(str, shape))}, the shape of the "
                f"data's inputs, got {self.input_dim}; set it so"
            )
        labels = example_batch.get("labels")  # weights may come without
        if not self.num_classes and labels is not None and labels.shape[1:] not in ((), (1,)):
            raise AetheriaError(
                "data_name: expected labels of one number an example to regress on, got "
                f"{list(labels.shape[1:])}; set model_params.num_classes for class labels"
            )
        return super().init(rng, example_batch)

    def class_columns(self):
        return {"labels": Classes(self.num_classes)} if self.num_classes else {}

    def score(self, outputs, batch):
        labels, mask = batch["labels"], batch["mask"]
        if self.num_classes:
            loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
            return weighted(loss, mask), {"accuracy": weighted(outputs.argmax(-1) == labels, mask)}
        error = outputs - labels.reshape(outputs.shape)  # [batch] would broadcast to a square
        return weighted(error**2, mask), {"mae": weighted(abs(error), mask)}

    def probabilities(self, outputs):
        return nn.softmax(outputs) if self.num_classes else super().probabilities(outputs)

    def partition_rules(self):
        if not self.num_layers:
            return ()
        # Only the hidden dim is ours to choose, and so sure to divide. Columns and rows in turn:
        # what one kernel splits over `tensor`, the next one sums.
        hidden = ("fsdp", "tensor")
        turns = [PartitionSpec("tensor", "fsdp"), PartitionSpec("fsdp", "tensor")] * self.num_layers
        between = turns[: self.num_layers - 1]
        specs = [PartitionSpec(None, hidden), *between, PartitionSpec(hidden)]
        return [(f"Dense_{layer}/kernel", spec) for layer, spec in enumerate(specs)]

    def torch_twin(self, example_batch):
        from aetheria.models.mlp_torch import Twin

        return Twin(self)

    def torch_inputs(self, shapes):
        return (self.input_dim,), "float32"

    def optimizer(self, total_steps):
        return Optimizer(
            AdamW(weight_decay=self.weight_decay),
            warmup_cosine(self.learning_rate, total_steps),
            max_grad_norm=self.max_grad_norm,
            ema_decay=self.ema_decay,
        )
