"""Records what the host and the devices of this process do, for TensorBoard's profile page."""

from collections.abc import Callable
from pathlib import Path

import jax

from aetheria.errors import AetheriaError


def start_profile(folder: Path) -> Callable[[], None]:
    """Begins to record; the files come into `plugins/profile/<time>/` of the folder.

    Args:
        folder: that of TensorBoard.

    Returns:
        What ends the recording and writes the files.

    Raises:
        AetheriaError: this process records already.
    """
    try:
        jax.profiler.start_trace(folder)
    except RuntimeError as error:
        raise AetheriaError(
            f"profiler: expected a process that is not recorded yet, got {error}; name the "
            "callback once, and start no trace of your own beside it"
        ) from error
    return jax.profiler.stop_trace
