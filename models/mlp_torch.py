"""SimpleMLP in PyTorch."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn import functional as F

from aetheria.pytorch import TorchTwin, dense, example_weights, register_counterpart, weighted

from .mlp import SimpleMLP


class Network(nn.Module):
    """[batch, input_dim] -> [batch, num_outputs]."""

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        *inner, last = pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(*size) for size in inner)
        self.head = nn.Linear(*last)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        for layer in self.layers:
            x = self.dropout(F.relu(layer(x)))
        return self.head(x)


@dataclass(frozen=True)
class Twin(TorchTwin):
    """The counterpart of a SimpleMLP, with the tensors `layers.<i>` and `head`."""

    model: SimpleMLP
    num_inputs: int = 0  # 0: as the model says

    def network(self):
        model = self.model
        hidden = [model.hidden_dim] * model.num_layers
        num_inputs = self.num_inputs or model.input_dim
        return Network([num_inputs, *hidden, model.num_classes or 1], model.dropout)

    def rules(self):
        layers = self.model.num_layers
        inner = [rule for i in range(layers) for rule in dense(f"layers.{i}", f"Dense_{i}")]
        return [*inner, *dense("head", f"Dense_{layers}")]

    def loss(self, outputs, batch):
        if self.model.num_classes:
            loss = F.cross_entropy(outputs, batch["labels"].long(), reduction="none")
            return weighted(loss, example_weights(batch))
        return weighted(self._error(outputs, batch) ** 2, example_weights(batch))

    def metrics(self, outputs, batch):
        if self.model.num_classes:
            return {
                "accuracy": weighted(outputs.argmax(-1) == batch["labels"], example_weights(batch))
            }
        return {"mae": weighted(self._error(outputs, batch).abs(), example_weights(batch))}

    @staticmethod
    def _error(outputs, batch):
        return outputs - batch["labels"].reshape(outputs.shape)


def _infer_inputs(model, shapes):
    weight = shapes.get("layers.0.weight" if model.num_layers else "head.weight", ())
    num_inputs = model.input_dim or (weight[1] if len(weight) == 2 else 0)
    return ((num_inputs,), "float32") if num_inputs else None


@register_counterpart(SimpleMLP, infer_inputs=_infer_inputs)
def make_counterpart(model, example_batch):
    """Makes the counterpart of a SimpleMLP."""
    return Twin(model, example_batch["inputs"].shape[-1])
