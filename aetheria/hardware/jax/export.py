"""The copy of a state that is written: leaf path -> array."""

from collections.abc import Callable

import jax

from aetheria.hardware.layout.leaves import export_leaves, named_leaves
from aetheria.hardware.layout.state import TrainState
from aetheria.hardware.layout.trees import Leaves


def make_export(placed: TrainState) -> Callable[[TrainState], Leaves]:
    """Builds the copy of a state, path -> array, for the process that writes it. On a mesh of one
    process the copies are split as the state is, since that process reads every part itself; of
    several processes, the first gets them whole.

    Args:
        placed: the state's shardings, all of one mesh.
    """
    shardings = named_leaves(placed)
    export = jax.jit(export_leaves, out_shardings=shardings)
    mesh = jax.tree.leaves(placed)[0].mesh
    if not mesh.is_multi_process:
        return export
    from aetheria.hardware.jax.shards import gather_on_first, make_gather

    gather = make_gather(mesh)
    return lambda state: gather_on_first(export(state), gather)
