"""The parts of a training loop of one's own: the compiled step, the data, the snapshots, the guard.

Where one loss and one optimizer are not enough, write the loop and keep what is hard to get right:

- `make_init`, `make_train_step`, `make_eval_step`: a model's own steps as pure functions;
- `make_state`, `make_update`: any gradient, with any optax optimizer, behind the same guard;
- `jit`: `jax.jit` with the trainer's options, so that no machine changes the numbers;
- `Batches`: batches in an order that is a function of (seed, epoch, index), from any position;
- `Snapshots`: verified snapshots of any tree of arrays.
"""

from aetheria.loops.batches import Batches, load_data
from aetheria.loops.snapshots import Restored, Snapshots, read_arrays
from aetheria.loops.steps import (
    StepReport,
    jit,
    make_eval_step,
    make_init,
    make_state,
    make_train_step,
    make_update,
    mean_metrics,
    step_key,
)

__all__ = [
    "Batches",
    "Restored",
    "Snapshots",
    "StepReport",
    "jit",
    "load_data",
    "make_eval_step",
    "make_init",
    "make_state",
    "make_train_step",
    "make_update",
    "mean_metrics",
    "read_arrays",
    "step_key",
]
