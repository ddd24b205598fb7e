"""Chooses devices and lays them out. One code path: a CPU or a GPU is a mesh of one device.

Knows neither data nor a step. `torch.strategy` does the same for the other backend.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aetheria.errors import HardwareError
from aetheria.hardware.jax.cpu.threads import NUM_THREADS
from aetheria.hardware.jax.environment import describe_machine
from aetheria.hardware.jax.mesh import Device, make_mesh, name_devices
from aetheria.hardware.jax.program import JaxProgram
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.model.model import Model
from aetheria.model.sharding import BATCH_AXES, MESH_AXES

if TYPE_CHECKING:
    from aetheria.hardware.jax.elastic import ElasticProgram


@dataclass(frozen=True)
class MeshStrategy:
    """Strategy: a named mesh of devices over which micro-batches and parameters are split."""

    name: str
    mesh: Mesh

    def describe_settings(self) -> dict[str, object]:
        """None beside those of JAX."""
        return {}

    def describe_machine(self) -> dict[str, object]:
        """The devices of the mesh, of all processes, and the processor of this machine."""
        return describe_machine(list(self.mesh.devices.flat))

    def check(self, num_slices: int, slice_size: int) -> None:
        """Raises HardwareError if a micro-batch does not divide over the devices."""
        size = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        if slice_size % size:
            raise HardwareError(
                f"mesh: expected a micro-batch that divides over {size} devices (data x fsdp), "
                f"got {slice_size} (batch_size / grad_accumulation_steps); change one of these, "
                "or use a smaller mesh"
            )

    def part(self, num_slices: int, slice_size: int) -> tuple[slice, slice]:
        """Selects the micro-batches, and the rows of each, of this process's devices."""
        if not self.mesh.is_multi_process:
            return slice(None), slice(None)
        rows = NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))
        places = rows.addressable_devices_indices_map((slice_size,)).values()
        bounds = [place[0].indices(slice_size) for place in places if place is not None]
        return slice(None), slice(min(b[0] for b in bounds), max(b[1] for b in bounds))

    @property
    def devices(self) -> str:
        """The devices of this process, in words for people."""
        return name_devices(self.mesh.local_devices)

    @property
    def axes(self) -> Mapping[str, int]:
        """The axes of the mesh, of all processes -> the number of devices on each."""
        return self.mesh.shape

    def counterpart(self, model: Model) -> None:
        return None

    def compile(self, model: Model, spec: ProgramSpec) -> JaxProgram:
        """Builds the program; each step is compiled at its first call."""
        return JaxProgram(model, spec, self.mesh)


@dataclass(frozen=True)
class ElasticStrategy:
    """Strategy: devices that share the lanes of every global batch, and give the same bits whatever
    their number.
    """

    name: str
    mesh: Mesh

    def describe_settings(self) -> dict[str, object]:
        """None beside those of JAX."""
        return {}

    def describe_machine(self) -> dict[str, object]:
        """The devices of the mesh, of all processes, and the processor of this machine."""
        return describe_machine(list(self.mesh.devices.flat))

    def check(self, num_slices: int, slice_size: int) -> None:
        """Raises HardwareError if the lanes, one slice each, cannot be shared evenly."""
        if (tensor := self.mesh.shape["tensor"]) > 1:
            raise HardwareError(
                "mesh: expected the axes data and fsdp alone with reproducibility elastic, got "
                f"tensor={tensor}: it splits contractions, and so changes the order of their sums; "
                "use reproducibility fast for it"
            )
        size = self.mesh.devices.size
        if num_slices % size:
            raise HardwareError(
                f"mesh: expected a number of devices that divides the {num_slices} lanes, got "
                f"{size} (data x fsdp); set mesh to fewer, or lanes to a larger power of two"
            )

        mine = [d for d in self.mesh.local_devices if d.platform == "cpu"]
        if len(mine) > NUM_THREADS:
            raise HardwareError(
                f"mesh: expected at most {NUM_THREADS} CPU devices a process with reproducibility "
                f"elastic, got {len(mine)}: with more, XLA takes more threads, and sums in another "
                "order; start more processes"
            )

    def part(self, num_slices: int, slice_size: int) -> tuple[slice, slice]:
        """Selects the lanes, and the rows of each, of this process's devices."""
        devices = list(self.mesh.devices.flat)
        mine = [i for i, d in enumerate(devices) if d.process_index == jax.process_index()]
        share = num_slices // len(devices)
        if len(mine) == len(devices):
            return slice(None), slice(None)
        return slice(mine[0] * share, (mine[-1] + 1) * share), slice(None)

    @property
    def devices(self) -> str:
        """The devices of this process, in words for people."""
        return name_devices(self.mesh.local_devices)

    @property
    def axes(self) -> Mapping[str, int]:
        """The axes of the mesh, of all processes -> the number of devices on each."""
        return self.mesh.shape

    def counterpart(self, model: Model) -> None:
        return None

    def compile(self, model: Model, spec: ProgramSpec) -> "ElasticProgram":
        """Builds the program; each part is compiled at its first call."""
        from aetheria.hardware.jax.elastic import ElasticProgram

        return ElasticProgram(model, spec, self.mesh)


def select_strategy(
    name: str, mesh_shape: Mapping[str, int], *, elastic: bool = False
) -> MeshStrategy | ElasticStrategy:
    """Turns the config's `strategy` and `mesh` into devices.

    Args:
        name: `cpu` or `gpu`: one device of that kind. `mesh`: all devices of the default kind, or
            as many as `mesh_shape` says. `auto`: a mesh if there are several devices, else the one.
        mesh_shape: axis name -> size, 1 for an axis left out; empty for all devices on the data
            axis.
        elastic: whether results must not depend on the number of devices.

    Raises:
        HardwareError: the device or an axis does not exist, or there are too few devices.
    """
    strategy = ElasticStrategy if elastic else MeshStrategy
    if name in ("cpu", "gpu"):
        if mesh_shape:
            raise HardwareError(
                f"mesh: expected no mesh with strategy {name!r}, got {dict(mesh_shape)}; "
                "use strategy 'mesh' or 'auto'"
            )
        return strategy(name, make_mesh({}, _devices(name)[:1]))
    available = jax.devices()
    _check_mesh(mesh_shape, len(available))
    return strategy(name, make_mesh(mesh_shape or {"data": len(available)}, available))


def _devices(platform: str) -> Sequence[Device]:
    try:
        return jax.devices(platform)
    except RuntimeError:
        found = sorted({device.platform for device in jax.devices()})
        raise HardwareError(
            f"strategy: expected a {platform} device, got only {', '.join(found)}; "
            "use strategy 'auto', or install JAX for your accelerator"
        ) from None


def _check_mesh(mesh_shape: Mapping[str, int], num_devices: int) -> None:
    for axis, size in mesh_shape.items():
        if axis not in MESH_AXES:
            raise HardwareError(
                f"mesh: expected the axes {', '.join(MESH_AXES)}, got {axis!r}; use these"
            )
        if size < 1:
            raise HardwareError(
                f"mesh: expected 1 or more devices on the axis {axis}, got {size}; leave it out "
                "for 1"
            )
    if (size := math.prod(mesh_shape.values())) > num_devices:
        shape = " x ".join(f"{axis}={size}" for axis, size in mesh_shape.items())
        raise HardwareError(
            f"mesh: expected at most {num_devices} devices, got {size} ({shape}); "
            "this machine has no more"
        )
    if jax.process_count() > 1 and mesh_shape and size < num_devices:
        raise HardwareError(
            f"mesh: expected all {num_devices} devices of the {jax.process_count()} processes, "
            f"got {size}; leave mesh out, or start fewer processes"
        )
