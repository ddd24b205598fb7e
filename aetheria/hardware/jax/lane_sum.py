"""Adds the lanes of all devices, in one fixed tree. Nothing here multiplies.

What crosses devices is added only. Both partners of an exchange add the same two numbers, so all
devices, of all processes, end with the same bits.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aetheria.hardware.jax.lanes import add_lanes
from aetheria.hardware.jax.mesh import Device
from aetheria.hardware.jax.shards import join_rows, on_each_device, wait_on_cpu
from aetheria.hardware.jax.state import LaneSums

_AXIS = "lanes"


class DeviceSum:
    """The sum of one part a device.

    Args:
        devices: all of the mesh, a power of two, in its order.
        mine: those of this process.
    """

    def __init__(self, devices: Sequence[Device], mine: Sequence[Device]):
        self._mine, self._num_devices = mine, len(devices)
        self._mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self._butterfly = self._make_butterfly()

    def __call__(self, parts: Sequence[LaneSums]) -> Sequence[LaneSums]:
        """Returns the sum on each device of this process; all processes call it alike.

        Args:
            parts: one for each device of this process; donated.
        """
        if self._num_devices == 1:
            return parts
        wait_on_cpu(parts)
        sharding = NamedSharding(self._mesh, PartitionSpec(_AXIS))

        join = lambda *leaves: join_rows(leaves, sharding)
        total = self._butterfly(jax.tree.map(join, *parts))
        leaves, treedef = jax.tree.flatten(total)
        views = [on_each_device(leaf, self._mine) for leaf in leaves]
        return [treedef.unflatten(leaves) for leaves in zip(*views, strict=True)]

    def _make_butterfly(self) -> Callable[[LaneSums], LaneSums]:
        """Builds the sum of neighbouring devices, then of neighbouring pairs, and so on."""
        size = self._num_devices

        def add(part: LaneSums) -> LaneSums:
            distance = 1
            while distance < size:
                pairs = [(index, index ^ distance) for index in range(size)]
                moved = jax.tree.map(lambda a: jax.lax.ppermute(a, _AXIS, pairs), part)  # noqa: B023
                part, distance = add_lanes(part, moved), 2 * distance
            return part

        spec = PartitionSpec(_AXIS)
        return jax.jit(
            jax.shard_map(add, mesh=self._mesh, in_specs=spec, out_specs=spec, check_vma=False),
            donate_argnums=0,
        )
