"""The train and eval step in PyTorch. Knows no loop of a run. The counterpart of `jax.step`.

A train step reads in this order: the gradient of the global batch, then the update, which judges
it and applies the verdict.
"""

from dataclasses import dataclass

from torch import Tensor

from aetheria.hardware.torch.gradient import Columns, Gradient
from aetheria.hardware.torch.state import TorchReport, TorchState, TorchTotals
from aetheria.hardware.torch.update import Update


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """What steps are taken with.

    Attributes:
        gradient: computes the gradient of a global batch.
        update: judges a gradient, and applies the verdict.
    """

    gradient: Gradient
    update: Update

    def train_step(self, state: TorchState, global_batch: Columns) -> Tensor:
        """Takes one optimizer step; returns its rows (sum, weight), as in `layout.report_rows`.

        Args:
            state: changed in place.
            global_batch: columns [num_micro, micro_batch, ...].
        """
        before = [statistic.clone() for statistic in state.statistics]
        sums = self.gradient(state, global_batch)
        return self.update(state, sums, before)

    def train_steps(
        self, state: TorchState, chunk: Columns, start: int, count: int, rows: Tensor | None
    ) -> TorchReport:
        """Takes `count` steps on the chunk's global batches from `start` on; `rows` are those of
        the interval so far, to which each step's are added; None: of no step.
        """
        for index in range(start, start + count):
            global_batch = {name: column[index] for name, column in chunk.items()}
            is_scaled = state.numbers.loss_scale is not None
            values = self.train_step(state, global_batch)
            rows = values if rows is None else _add(rows, values, is_scaled)
        assert rows is not None, "at least one step"
        return TorchReport(rows, state.numbers)

    def eval_step(
        self, state: TorchState, batch: Columns, totals: TorchTotals | None
    ) -> TorchTotals:
        """Adds a batch [micro_batch, ...] to the totals."""
        more = self.gradient.eval_sums(state, batch)
        if totals is None:
            return more
        return TorchTotals(totals.values + more.values, totals.num_examples + more.num_examples)


def _add(before: Tensor, values: Tensor, is_scaled: bool) -> Tensor:
    """Adds a step's rows. The loss scale is the step's: a mean of scales would not be a scale."""
    total = before + values
    if is_scaled:
        total[2] = values[2]
    return total
