"""The PyTorch backend: a program for the same engine. It and the models' twins alone know torch."""

from aetheria.pytorch.mapping import Rule as Rule
from aetheria.pytorch.mapping import batch_norm as batch_norm
from aetheria.pytorch.mapping import conv2d as conv2d
from aetheria.pytorch.mapping import dense as dense
from aetheria.pytorch.mapping import embedding as embedding
from aetheria.pytorch.mapping import layer_norm as layer_norm
from aetheria.pytorch.twin import TorchTwin as TorchTwin
from aetheria.pytorch.twin import WeightedSum as WeightedSum
from aetheria.pytorch.twin import weighted as weighted
