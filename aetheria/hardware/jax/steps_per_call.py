"""How many steps one call of a compiled program takes. Knows no clock."""

from collections.abc import Callable

from jax.sharding import Mesh

from aetheria.hardware.jax.operations import Operations

# About three steps of the small Transformer in a call, or five of SimpleCNN: a fifth of a second on
# two fast cores, two seconds on a slow one. That is long compared with a dispatch (0.4 ms with cold
# caches), and short compared with the time that a scheduler leaves after a signal, which is noticed
# between calls.
_MAX_STEPS = 32
_MAX_OPERATIONS = 4.6e10


def choose_steps_per_call(mesh: Mesh, step_operations: Callable[[], Operations]) -> int:
    """Chooses several steps where a step is so small that its dispatch matters, else one.

    The bound is in operations, not in measured time: how a run is cut decides which program is
    compiled, and must be the same wherever it runs. Accelerators take one step in a call, since
    there each turn of a loop of unknown length waits for the host.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return 1
    step = step_operations()
    return max(1, min(_MAX_STEPS, int(_MAX_OPERATIONS / max(step.flops + step.elements, 1))))
