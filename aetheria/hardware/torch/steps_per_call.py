"""How many steps one call of a PyTorch program takes. Knows no clock.

It changes no number: few calls where steps are short, and few steps between two looks at a signal
where they are long.
"""

from collections.abc import Mapping

import numpy as np
import torch

_MAX_STEPS = 16
_MAX_BYTES = 2**20
_MAX_FLOPS = 1e10


def choose_steps_per_call(
    device: torch.device, global_batch: Mapping[str, np.ndarray], num_params: int
) -> int:
    """Chooses several steps where a step is small, else one.

    Args:
        device: of this rank.
        global_batch: columns of the run's shapes.
        num_params: how many numbers all parameters have.
    """
    if device.type != "cpu":
        return 1
    size = sum(column.nbytes for column in global_batch.values())
    # Each parameter meets each example, or each token, once forward and twice backward.
    inputs = global_batch.get("inputs", global_batch["mask"])
    items = inputs if inputs.dtype.kind == "i" else global_batch["mask"]
    flops = 6 * num_params * items.size
    fit = min(_MAX_BYTES // size, int(_MAX_FLOPS / flops))
    return max(1, min(_MAX_STEPS, fit))
