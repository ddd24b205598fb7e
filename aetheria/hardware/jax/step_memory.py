"""The memory that a compiled step needs on a device, and how much there is. Runs nothing."""

import os
from typing import NamedTuple

import jax

from aetheria.hardware.jax.mesh import Device


class StepMemory(NamedTuple):
    """Bytes on one device.

    Attributes:
        temporaries: activations and whatever else the step makes and frees.
        peak: these, the state and the batch. The state is donated, so the new one needs no more.
    """

    temporaries: int
    peak: int


def step_memory(compiled: jax.stages.Compiled) -> StepMemory:
    """What XLA says that a compiled step needs."""
    stats = compiled.memory_analysis()
    assert stats is not None, "XLA reports the memory of a compiled program"
    arguments, outputs = stats.argument_size_in_bytes, stats.output_size_in_bytes
    temporaries = stats.temp_size_in_bytes
    return StepMemory(temporaries, arguments + outputs - stats.alias_size_in_bytes + temporaries)


def device_limit(device: Device) -> int | None:
    """The bytes that a device has for programs; of a CPU the machine's memory; None: not known."""
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except RuntimeError:  # a plugin without it
        return None
