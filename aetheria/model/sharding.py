"""How the arrays of a model are split over the mesh that a step is traced for. Knows the axes of a
mesh, and no device.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # the axes that split a batch by examples


@dataclass(frozen=True)
class LargestDim:
    """Stands for a PartitionSpec that depends on the shape of a parameter and on the mesh: it
    splits the largest dim that the size of an axis divides.

    Attributes:
        axis: the axis of the mesh.

    Source: Rajbhandari et al., "ZeRO" (arXiv:1910.02054), stage 3: parameters, gradients and
    optimizer state are split over the devices that split the batch.
    """

    axis: str = "fsdp"

    def spec(self, shape: Sequence[int], sizes: Mapping[str, int]) -> PartitionSpec:
        """Makes the spec of one parameter.

        Args:
            shape: the parameter's.
            sizes: axis -> number of devices.

        Returns:
            The spec; an empty one if the axis has size 1 or divides no dim. Of two dims of the same
            size, the first is split.

        >>> tuple(LargestDim().spec((5, 5, 32, 64), {"fsdp": 8}))
        (None, None, None, 'fsdp')
        >>> tuple(LargestDim().spec((100, 24), {"fsdp": 8}))
        (None, 'fsdp')
        >>> tuple(LargestDim().spec((10,), {"fsdp": 8})), tuple(LargestDim().spec((16,), {}))
        ((), ())
        """
        size = sizes.get(self.axis, 1)
        fitting = [dim for dim, length in enumerate(shape) if length and length % size == 0]
        if size == 1 or not fitting:
            return PartitionSpec()
        largest = max(fitting, key=lambda dim: shape[dim])
        return PartitionSpec(*[None] * largest, self.axis)


PartitionRules: TypeAlias = Sequence[tuple[str, PartitionSpec | LargestDim]]


def fsdp_rules(pattern: str = "") -> PartitionRules:
    """Returns rules that split each parameter over `fsdp`, along the largest dim that the size of
    the axis divides; a parameter without such a dim is whole on every device.

    A model whose `partition_rules` returns None has these rules. A model with rules for some of its
    parameters may append them for the others:

        def partition_rules(self):
            return [("head/kernel", PartitionSpec("tensor", "fsdp")), *aetheria.fsdp_rules()]

    Args:
        pattern: the parameters that the rules apply to, as in `Model.partition_rules`; every
            parameter by default.
    """
    return [(pattern, LargestDim("fsdp"))]


def axis_size(axis: str) -> int:
    """Returns the size of an axis of the mesh that is being traced for; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def split_batch(activations: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """Keeps dim 0 split over the devices that the batch is split over, and the other dims whole.

    Call it on what passes between the blocks of a model whose kernels are split over `fsdp`.
    Otherwise XLA may split activations as the kernels are split, and hold every example on every
    device, instead of gathering the kernels. Without a mesh, or where the number of devices does
    not divide dim 0, it does nothing.

    Args:
        activations: [batch, ...], inside a step that is being traced.

    Returns:
        The same values.

    Source: Xu et al., "GSPMD" (arXiv:2105.04663), on guiding the propagation of shardings.
    """
    size = math.prod(map(axis_size, BATCH_AXES))
    if size == 1 or activations.ndim == 0 or activations.shape[0] % size:
        return activations
    # Every dim is named: with UNCONSTRAINED for the others, the partitioner silently gave wrong
    # gradients for one in seven random sets of rules on a 2 x 2 x 2 mesh (jax 0.10.2 and 0.12.0.1);
    # with all dims named, for none of them.
    return jax.lax.with_sharding_constraint(activations, PartitionSpec(BATCH_AXES))
