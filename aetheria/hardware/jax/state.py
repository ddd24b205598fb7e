"""What the steps of an elastic program take and give, beside the types of `layout.state`.

The plain program's are `TrainState`, `StepOutput` and `Sums`, of one mesh. Computes nothing.
"""

from typing import NamedTuple, TypeAlias

from aetheria.hardware.layout.state import Sums, TrainState
from aetheria.model.model import ModelState, Params

# One state for each device of this process.
Replicas: TypeAlias = list[TrainState]


class LaneSums(NamedTuple):
    """What one lane contributes, or several together. Every leaf leads with a dim of 1: side by
    side, those of all devices are one array over the mesh.

    Attributes:
        grads: gradients of the summed loss, f32; with float16, still scaled.
        sums: loss, weight, metrics, number of examples.
        model_state: float and complex leaves, f32 or wider, multiplied by the number of examples;
            others as they are.
    """

    grads: Params
    sums: Sums
    model_state: ModelState


class LaneTotals(NamedTuple):
    """The totals of an evaluation.

    Attributes:
        num_batches: how many batches were taken.
        lanes: the sums of each lane so far.
        replicas: the states that are evaluated, their parameters whole.
    """

    num_batches: int
    lanes: tuple[Sums, ...]
    replicas: Replicas
