"""Exchanges small arrays between the devices of all processes. Bytes are moved here; nothing is
computed, and no step is known.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aetheria.hardware.jax.mesh import Device
from aetheria.hardware.jax.shards import join_rows, on_each_device, wait_on_cpu
from aetheria.hardware.layout.trees import Columns

_AXIS = "devices"


class Exchange:
    """What devices give each other. All processes make the same calls.

    Args:
        devices: all of the mesh, a power of two, in its order; those of a process follow each
            other. The partner of a device is half of them away: of several processes, in another
            one. A single device is its own partner.
        mine: those of this process.
    """

    def __init__(self, devices: Sequence[Device], mine: Sequence[Device]):
        self._mine, self._num_devices = mine, len(devices)
        mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self._over, whole = NamedSharding(mesh, PartitionSpec(_AXIS)), PartitionSpec()
        # A copy, by which every device comes to hold what all have.
        self._gather = jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, whole))
        self._swap = self._make_swap(mesh)

    def partner(self, index: int) -> int:
        """The partner of a device, by their numbers in the mesh."""
        return index ^ (self._num_devices // 2)

    def gather(self, rows: Sequence[jax.Array]) -> list[jax.Array]:
        """The rows [1, n] of all devices, on each device of this process: [devices, n]."""
        wait_on_cpu(rows)
        return on_each_device(self._gather(join_rows(rows, self._over)), self._mine)

    def swap(self, batches: Sequence[Columns]) -> list[Columns]:
        """The partner's batch, for each device of this process.

        Args:
            batches: one of each of these devices, of the host.
        """
        if self._is_alone:
            return [batches[self.partner(place)] for place in range(len(batches))]
        swapped = {name: self._swap(column) for name, column in self._join(batches).items()}
        views = {name: on_each_device(column, self._mine) for name, column in swapped.items()}
        return [
            {name: _from_bits(view[place], batches[0][name])[0] for name, view in views.items()}
            for place in range(len(batches))
        ]

    def share(self, batches: Sequence[Columns]) -> Sequence[Columns]:
        """The batches of all devices, of the host; the argument is as in `swap`."""
        if self._is_alone:
            return batches
        whole = {
            name: _from_bits(self._gather(column).addressable_shards[0].data, batches[0][name])
            for name, column in self._join(batches).items()
        }
        return [{n: c[index] for n, c in whole.items()} for index in range(self._num_devices)]

    @property
    def _is_alone(self) -> bool:
        return len(self._mine) == self._num_devices

    def _join(self, batches: Sequence[Columns]) -> dict[str, jax.Array]:
        """One array of bits [devices, bytes] for each column."""
        rows = {name: [_to_bits(each[name]) for each in batches] for name in batches[0]}
        return {name: join_rows(self._place(each), self._over) for name, each in rows.items()}

    def _place(self, rows: Sequence[np.ndarray]) -> list[jax.Array]:
        return [jax.device_put(row, device) for row, device in zip(rows, self._mine, strict=True)]

    def _make_swap(self, mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
        pairs = [(index, self.partner(index)) for index in range(self._num_devices)]
        spec = PartitionSpec(_AXIS)
        swap = lambda row: jax.lax.ppermute(row, _AXIS, pairs)
        return jax.jit(
            jax.shard_map(swap, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        )


def _to_bits(column: np.ndarray) -> np.ndarray:
    """u8 [1, bytes]."""
    return np.ascontiguousarray(column).reshape(1, -1).view(np.uint8)


def _from_bits(bits: jax.Array, like: np.ndarray) -> np.ndarray:
    """The inverse of `_to_bits`, of several rows."""
    return np.asarray(bits).view(like.dtype).reshape(-1, *like.shape)
