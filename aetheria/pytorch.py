"""The PyTorch backend: a program for the same engine. It and the models' twins alone know torch."""

from aetheria.hardware.torch.mapping import Rule as Rule
from aetheria.hardware.torch.mapping import batch_norm as batch_norm
from aetheria.hardware.torch.mapping import conv2d as conv2d
from aetheria.hardware.torch.mapping import dense as dense
from aetheria.hardware.torch.mapping import embedding as embedding
from aetheria.hardware.torch.mapping import layer_norm as layer_norm
from aetheria.hardware.torch.twin import TorchTwin as TorchTwin
from aetheria.hardware.torch.twin import WeightedSum as WeightedSum
from aetheria.hardware.torch.twin import weighted as weighted
