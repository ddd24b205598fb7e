"""What a PyTorch counterpart of a model is written with. Importing this module imports torch."""

from aetheria.hardware.torch.counterparts import register_counterpart as register_counterpart
from aetheria.hardware.torch.mapping import Rule as Rule
from aetheria.hardware.torch.mapping import batch_norm as batch_norm
from aetheria.hardware.torch.mapping import conv2d as conv2d
from aetheria.hardware.torch.mapping import dense as dense
from aetheria.hardware.torch.mapping import embedding as embedding
from aetheria.hardware.torch.mapping import layer_norm as layer_norm
from aetheria.hardware.torch.twin import TorchTwin as TorchTwin
from aetheria.hardware.torch.twin import WeightedSum as WeightedSum
from aetheria.hardware.torch.twin import example_weights as example_weights
from aetheria.hardware.torch.twin import weighted as weighted
