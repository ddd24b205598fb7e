"""Chooses devices and lays them out. One code path: a CPU or a GPU is a mesh of one device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from aetheria.errors import HardwareError
from aetheria.hardware.elastic import ElasticProgram
from aetheria.hardware.program import JaxProgram, ProgramSpec
from aetheria.logic.model import Model

DATA_AXIS = "data"


@dataclass(frozen=True)
class MeshStrategy:
    """Strategy: a named mesh of devices over which each micro-batch is split."""

    name: str
    mesh: Mesh

    def check(self, num_micro: int, micro_batch: int) -> None:
        """Raises HardwareError if a micro-batch does not divide over the devices."""
        size = self.mesh.shape[DATA_AXIS]
        if micro_batch % size:
            raise HardwareError(
                f"mesh: expected a micro-batch that divides over {size} devices on the data axis, "
                f"got {micro_batch} (batch_size / grad_accumulation_steps); change one of these, "
                "or use a smaller mesh"
            )

    def part(self, num_micro: int, micro_batch: int) -> tuple[slice, slice]:
        """All of a window: every process reads it whole, and places its own rows."""
        return slice(None), slice(None)

    def compile(self, model: Model, spec: ProgramSpec) -> JaxProgram:
        """Builds the program; each step is compiled at its first call."""
        return JaxProgram(model, spec, self.mesh)


@dataclass(frozen=True)
class ElasticStrategy:
    """Strategy: devices that share the lanes of every batch, and give the same bits however many
    they are.
    """

    name: str
    mesh: Mesh

    def check(self, num_lanes: int, lane_size: int) -> None:
        """Raises HardwareError if the lanes cannot be shared evenly."""
        size = self.mesh.devices.size
        if num_lanes % size:
            raise HardwareError(
                f"mesh: expected a number of devices that divides the {num_lanes} lanes, got "
                f"{size}; set mesh to {{data: N}}, or lanes to a larger power of two"
            )

    def part(self, num_lanes: int, lane_size: int) -> tuple[slice, slice]:
        """The lanes, and the rows of each, whose devices belong to this process."""
        devices = list(self.mesh.devices.flat)
        mine = [i for i, d in enumerate(devices) if d.process_index == jax.process_index()]
        share = num_lanes // len(devices)
        if len(mine) == len(devices):
            return slice(None), slice(None)
        return slice(mine[0] * share, (mine[-1] + 1) * share), slice(None)

    def compile(self, model: Model, spec: ProgramSpec) -> ElasticProgram:
        """Builds the program; each part is compiled at its first call."""
        return ElasticProgram(model, spec, list(self.mesh.devices.flat))


def select_strategy(
    name: str, mesh_shape: Mapping[str, int], *, elastic: bool = False
) -> MeshStrategy | ElasticStrategy:
    """Turns the config's `strategy` and `mesh` into devices.

    Args:
        name: `cpu` or `gpu`: one device of that kind. `mesh`: all devices of the default kind, or
            as many as `mesh_shape` says. `auto`: a mesh if there are several, else the one.
        mesh_shape: axis name -> size; empty for all devices on the data axis.
        elastic: whether the result may not depend on the number of devices.

    Raises:
        HardwareError: no such device, too few of them, or an axis that does not exist.
    """
    strategy = ElasticStrategy if elastic else MeshStrategy
    if name in ("cpu", "gpu"):
        if mesh_shape:
            raise HardwareError(
                f"mesh: expected no mesh with strategy {name!r}, got {dict(mesh_shape)}; "
                "use strategy 'mesh' or 'auto'"
            )
        return strategy(name, _data_mesh(_devices(name)[:1]))
    available = jax.devices()
    size = _data_size(mesh_shape, len(available))
    return strategy(name, _data_mesh(available[:size]))


def _devices(platform: str) -> Sequence[Any]:
    try:
        return jax.devices(platform)
    except RuntimeError:
        found = sorted({device.platform for device in jax.devices()})
        raise HardwareError(
            f"strategy: expected a {platform} device, got only {', '.join(found)}; "
            "use strategy 'auto', or install JAX for your accelerator"
        ) from None


def _data_size(mesh_shape: Mapping[str, int], num_devices: int) -> int:
    unknown = [axis for axis in mesh_shape if axis != DATA_AXIS]
    if unknown:
        raise HardwareError(
            f"mesh: expected the axis {DATA_AXIS!r}, got {unknown[0]!r}; write data=N"
        )
    size = mesh_shape.get(DATA_AXIS, num_devices)
    if not 1 <= size <= num_devices:
        raise HardwareError(
            f"mesh: expected 1 to {num_devices} devices on the data axis, got {size}; "
            "this machine has no more"
        )
    return size


def _data_mesh(devices: Sequence[Any]) -> Mesh:
    # Auto: the Explicit default of jax.make_mesh makes Linen's Dropout fail on a sharded batch.
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
