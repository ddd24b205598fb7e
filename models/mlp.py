"""A multilayer perceptron for vectors: a classifier, or with `num_classes` 0 a regressor."""

from dataclasses import dataclass
from typing import ClassVar

from flax import linen as nn
from jax.sharding import PartitionSpec

from aetheria import Classifier, Model, register_model
from aetheria.errors import AetheriaError
from aetheria.model.tasks import squared_error


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
class SimpleMLP(Classifier):
    """A multilayer perceptron. Inputs f32 [batch, input_dim]. Labels i32 [batch]; for a regression
    f32 [batch] or [batch, 1].

    Outputs f32 [batch, num_classes] logits, or [batch, 1]. `input_dim` 0: as the data has it.
    """

    sizes_of_data: ClassVar[tuple[str, ...]] = ("input_dim",)

    input_dim: int = 0
    hidden_dim: int = 128
    num_layers: int = 1
    num_classes: int = 0
    dropout: float = 0.0

    def network(self):
        return _Layers(self.hidden_dim, self.num_layers, self.num_classes or 1, self.dropout)

    def init(self, rng, example_batch):
        shape = example_batch["inputs"].shape[1:]
        if len(shape) != 1 or self.input_dim not in (0, *shape):
            size = "x".join(map(str, shape))
            use = f"use input_dim={size}" if len(shape) == 1 else "use a dataset of vectors"
            raise AetheriaError(
                f"model_params.input_dim: expected {size}, the shape of the data's inputs, got "
                f"{self.input_dim}; {use}"
            )
        labels = example_batch.get("labels")  # absent where weights alone are read
        if not self.num_classes and labels is not None and labels.shape[1:] not in ((), (1,)):
            raise AetheriaError(
                "data_name: expected labels of one number an example to regress on, got "
                f"{list(labels.shape[1:])}; set model_params.num_classes for class labels"
            )
        return super().init(rng, example_batch)

    def score(self, outputs, batch):
        return super().score(outputs, batch) if self.num_classes else squared_error(outputs, batch)

    def tallies(self, params, model_state, batch):
        of = "classes" if self.num_classes else "numbers"
        return self.score_tallies(of, params, model_state, batch)

    def probabilities(self, outputs):
        if not self.num_classes:
            return Model.probabilities(self, outputs)  # raises: there are no classes
        return super().probabilities(outputs)

    def partition_rules(self):
        if not self.num_layers:
            return ()
        # The hidden dim is the model's own choice; the number of inputs or outputs may not divide.
        # Between hidden layers, columns and rows alternate: the dim that one kernel splits over
        # `tensor` is the one that the next kernel sums over.
        hidden = ("fsdp", "tensor")
        turns = [PartitionSpec("tensor", "fsdp"), PartitionSpec("fsdp", "tensor")] * self.num_layers
        between = turns[: self.num_layers - 1]
        specs = [PartitionSpec(None, hidden), *between, PartitionSpec(hidden)]
        return [(f"Dense_{layer}/kernel", spec) for layer, spec in enumerate(specs)]
