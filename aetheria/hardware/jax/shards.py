"""What each device keeps of a state that is split over a mesh, and how it becomes whole. Bytes are
moved here; nothing is computed, and no step is known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aetheria.hardware.jax.each_device import EachDevice
from aetheria.hardware.jax.mesh import Device
from aetheria.hardware.jax.state import Replicas
from aetheria.hardware.layout.state import TrainState
from aetheria.hardware.layout.trees import Leaves, Tree

Gather: TypeAlias = Callable[[list[jax.Array]], list[jax.Array]]


class Shards:
    """The states of an elastic program's devices, between steps and during them.

    Between steps a device keeps its own part of every leaf that the partition rules split on this
    mesh. During a step the parameters are whole on each device from the first lane to the update,
    and the optimizer's state only for the update. So it saves memory at rest, and, while
    activations are alive, the memory of the optimizer's state; the peak of the update is that of
    whole replicas. Where nothing is split, nothing happens here.

    Args:
        abstract: shapes and dtypes of the whole state.
        placed: its shardings, all of one mesh; params and opt_state alone may be split.
        devices: those of this process, in the order of the mesh.
    """

    def __init__(self, abstract: TrainState, placed: TrainState, devices: Sequence[Device]):
        self._devices = devices
        shardings, self._treedef = jax.tree.flatten(placed)
        shapes = [leaf.shape for leaf in jax.tree.leaves(abstract)]
        self._leaves = list(zip(shapes, shardings, strict=True))
        split = [i for i, sharding in enumerate(shardings) if not sharding.is_fully_replicated]
        num_params = len(jax.tree.leaves(placed.params))
        self._split: Mapping[str, list[int]] = {
            "params": [i for i in split if i < num_params],
            "opt_state": [i for i in split if i >= num_params],
        }
        self._all_split = split
        self._gather = make_gather(shardings[0].mesh)
        self._take = EachDevice(jax.jit(self._take_part), devices)
        self._starts = [self._starts_on(device) for device in devices]

    @property
    def is_split(self) -> bool:
        """Whether any leaf is split."""
        return bool(self._all_split)

    def spread(self, state: TrainState) -> Replicas:
        """Gives each device its part of a state that is whole on one device."""
        leaves = jax.tree.leaves(state)
        replicas = []
        for device, starts in zip(self._devices, self._starts, strict=True):
            own = self._with_parts(leaves, starts, 0)
            replicas.append(self._treedef.unflatten(jax.device_put(own, device)))
        return replicas

    def part(self, whole: Replicas) -> Replicas:
        """Keeps on each device its part of its own whole state, and frees the whole one."""
        if not self.is_split:
            return whole
        replicas = []
        for place, (state, starts) in enumerate(zip(whole, self._starts, strict=True)):
            leaves = jax.tree.leaves(state)
            replicas.append(self._treedef.unflatten(self._with_parts(leaves, starts, place)))
            _free(leaves[i] for i in self._all_split)
        return replicas

    def gather(
        self, replicas: Replicas, field: Literal["params", "opt_state"], *, free: bool
    ) -> Replicas:
        """Makes one field whole on every device; called by all processes alike.

        Args:
            replicas: each with its part of the field.
            field: which one.
            free: whether to free the parts; not where they are needed again, as in evaluation.
        """
        split = self._split[field]
        if not split:
            return replicas
        wait_on_cpu(replicas)
        states = [jax.tree.leaves(state) for state in replicas]
        joined = self._gather([self._join(i, states) for i in split])
        views = [on_each_device(array, self._devices) for array in joined]
        if free:
            _free(leaves[i] for leaves in states for i in split)
        for place, leaves in enumerate(states):
            for i, view in zip(split, views, strict=True):
                leaves[i] = view[place]
        return [self._treedef.unflatten(leaves) for leaves in states]

    def join(self, replicas: Replicas) -> TrainState:
        """Makes the parts of all devices one state on the mesh; copies nothing."""
        states = [jax.tree.leaves(state) for state in replicas]
        return self._treedef.unflatten([self._join(i, states) for i in range(len(self._leaves))])

    def _join(self, index: int, states: Sequence[Sequence[jax.Array]]) -> jax.Array:
        parts = [leaves[index] for leaves in states]
        return jax.make_array_from_single_device_arrays(*self._leaves[index], parts)

    def _with_parts(
        self, leaves: Sequence[jax.Array], starts: np.ndarray, place: int
    ) -> list[jax.Array]:
        """The leaves of a whole state on one device, with parts of those that are split."""
        if not self.is_split:
            return list(leaves)
        mixed = list(leaves)
        parts = self._take(place, [leaves[i] for i in self._all_split], starts)
        for i, part in zip(self._all_split, parts, strict=True):
            mixed[i] = part
        return mixed

    def _take_part(self, whole: Sequence[jax.Array], starts: jax.Array) -> list[jax.Array]:
        """Cuts the part that begins at `starts` [num split leaves, most dims] out of each leaf."""
        sizes = [s.shard_shape(shape) for shape, s in (self._leaves[i] for i in self._all_split)]
        return [
            jax.lax.dynamic_slice(leaf, [starts[row, dim] for dim in range(leaf.ndim)], size)
            for row, (leaf, size) in enumerate(zip(whole, sizes, strict=True))
        ]

    def _starts_on(self, device: Device) -> np.ndarray:
        most = max((len(self._leaves[i][0]) for i in self._all_split), default=0)
        starts = np.zeros((len(self._all_split), most), np.int32)
        for row, i in enumerate(self._all_split):
            shape, sharding = self._leaves[i]
            place = sharding.devices_indices_map(shape)[device]
            for dim, (part, size) in enumerate(zip(place, shape, strict=True)):
                starts[row, dim] = part.indices(size)[0]
        return starts


def make_gather(mesh: Mesh) -> Gather:
    """Builds the program that makes split arrays whole on every device of a mesh.

    Floats of fewer than 32 bits travel as whole numbers: on a CPU XLA converts bfloat16 to float32
    and back to move it, and a conversion is not a move.
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def gather(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype.itemsize >= 4:
            return leaf
        number = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        # Without the barriers XLA finds that the two casts cancel, and drops both.
        bits = jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(leaf, number))
        bits = jax.lax.optimization_barrier(jax.lax.with_sharding_constraint(bits, whole))
        return jax.lax.bitcast_convert_type(bits, leaf.dtype)

    return jax.jit(lambda leaves: [gather(leaf) for leaf in leaves], out_shardings=whole)


def gather_on_first(arrays: Mapping[str, jax.Array], gather: Gather) -> Leaves:
    """Makes split arrays whole in the memory of process 0, which writes them; the others do without
    them. One array after another, so that no device holds more than one of them whole.

    Args:
        arrays: path -> array, on a mesh of several processes, which all make this call.
        gather: the mesh's.
    """
    held: dict[str, jax.Array | np.ndarray] = {}
    for path, array in arrays.items():
        if array.is_fully_replicated:
            held[path] = array
            continue
        wait_on_cpu(array)
        (whole,) = gather([array])
        jax.block_until_ready(whole)
        if jax.process_index() == 0:
            held[path] = np.asarray(whole)
    return held


def join_rows(rows: Sequence[jax.Array], over: NamedSharding) -> jax.Array:
    """Makes rows [1, ...], one on each device of this process, a part of one array [devices, ...];
    copies nothing.
    """
    shape = (over.mesh.size, *rows[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, over, list(rows))


def on_each_device(array: jax.Array, devices: Sequence[Device]) -> list[jax.Array]:
    """Takes what each device holds of an array, without a copy."""
    held = {shard.device: shard.data for shard in array.addressable_shards}
    return [held[device] for device in devices]


def wait_on_cpu(tree: Tree) -> None:
    """Waits for arrays that the devices of one CPU compute, before these meet in a collective.

    They share a pool of threads, and each blocks one of them to meet the others: with other work
    still queued there, the last may never get its thread (a deadlock, seen on jax 0.10.2 with eight
    devices on two cores).
    """
    (device, *_) = jax.tree.leaves(tree)[0].devices()
    if device.platform == "cpu":
        jax.block_until_ready(tree)


def _free(arrays: Iterable[jax.Array]) -> None:
    """Frees now, or when the device has read them, not when the last Python reference goes."""
    for array in arrays:
        array.delete()
