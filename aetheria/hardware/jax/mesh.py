"""A mesh of devices: laid out, and named for people. Knows no model and no data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import AxisType, Mesh

from aetheria.model.sharding import MESH_AXES

Device: TypeAlias = Any  # jax.Device, which type checkers take for a variable


def make_mesh(mesh_shape: Mapping[str, int], devices: Sequence[Device]) -> Mesh:
    """Lays devices out, as many as the shape needs; an axis left out has size 1."""
    # Auto: the Explicit default of jax.make_mesh makes Linen's Dropout fail on a sharded batch.
    # The order of the axes puts those that communicate most, tensor before fsdp, on neighbours.
    sizes = [mesh_shape.get(axis, 1) for axis in MESH_AXES]
    return jax.make_mesh(
        sizes,
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices[: math.prod(sizes)],
    )


def name_device(device: Device) -> str:
    """Names one device for people: a GPU by its number on its machine."""
    if device.platform != "gpu":
        return str(device)
    # In "cuda:8" the number counts the devices of all machines.
    return f"{str(device).partition(':')[0]}:{device.local_hardware_id}"


def name_devices(devices: Sequence[Device]) -> str:
    """Names devices for people: GPUs by their numbers on this machine, others by their count."""
    if not devices:
        return "no device of the mesh"
    if devices[0].platform == "gpu":
        return ", ".join(map(name_device, devices))
    kind, several = devices[0].platform.upper(), "s" if len(devices) > 1 else ""
    return f"{len(devices)} {kind} device{several}"
