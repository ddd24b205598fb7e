"""Chooses devices and lays them out. One code path: a CPU or a GPU is a mesh of one device."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from aetheria.errors import HardwareError
from aetheria.hardware.program import JaxProgram, ProgramSpec
from aetheria.logic.model import Model
from aetheria.logic.sharding import BATCH_AXES, MESH_AXES


@dataclass(frozen=True)
class MeshStrategy:
    """Strategy: a named mesh of devices over which micro-batches and parameters are split."""

    name: str
    mesh: Mesh

    def check(self, micro_batch: int) -> None:
        """Raises HardwareError if a micro-batch does not divide over the devices."""
        size = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        if micro_batch % size:
            raise HardwareError(
                f"mesh: expected a micro-batch that divides over {size} devices (data x fsdp), "
                f"got {micro_batch} (batch_size / grad_accumulation_steps); change one of these, "
                "or use a smaller mesh"
            )

    def compile(self, model: Model, spec: ProgramSpec) -> JaxProgram:
        """Builds the program; each step is compiled at its first call."""
        return JaxProgram(model, spec, self.mesh)


def select_strategy(name: str, mesh_shape: Mapping[str, int]) -> MeshStrategy:
    """Turns the config's `strategy` and `mesh` into devices.

    Args:
        name: `cpu` or `gpu`: one device of that kind. `mesh`: all devices of the default kind, or
            as many as `mesh_shape` says. `auto`: a mesh if there are several, else the one.
        mesh_shape: axis name -> size, 1 for an axis left out; empty for all devices on the data
            axis.

    Raises:
        HardwareError: no such device, too few of them, or an axis that does not exist.
    """
    if name in ("cpu", "gpu"):
        if mesh_shape:
            raise HardwareError(
                f"mesh: expected no mesh with strategy {name!r}, got {dict(mesh_shape)}; "
                "use strategy 'mesh' or 'auto'"
            )
        return MeshStrategy(name, _mesh({}, _devices(name)[:1]))
    available = jax.devices()
    _check_mesh(mesh_shape, len(available))
    return MeshStrategy(name, _mesh(mesh_shape or {"data": len(available)}, available))


def _devices(platform: str) -> Sequence[Any]:
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


def _mesh(mesh_shape: Mapping[str, int], devices: Sequence[Any]) -> Mesh:
    # Auto: the Explicit default of jax.make_mesh makes Linen's Dropout fail on a sharded batch.
    # The order of the axes puts those that talk most, tensor before fsdp, on neighbours.
    sizes = [mesh_shape.get(axis, 1) for axis in MESH_AXES]
    return jax.make_mesh(
        sizes,
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices[: math.prod(sizes)],
    )
