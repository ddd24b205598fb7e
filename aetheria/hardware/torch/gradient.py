"""Gradients of summed losses: of a micro-batch, and of a global batch made of micro-batches; and
the sums of an evaluation batch.

Knows neither an optimizer nor a loop, and decides nothing. The counterpart of `jax.gradient`, which
says what is promised: the gradients are of the *sum* of the loss.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.loss_scale import SCALE
from aetheria.hardware.torch.ranks import Ranks
from aetheria.hardware.torch.state import TorchState, TorchTotals
from aetheria.hardware.torch.twin import TorchTwin, WeightedSum
from aetheria.hardware.torch.update import keep_where
from aetheria.model.step_number import at_step

Columns: TypeAlias = Mapping[str, Tensor]
_PLAIN = contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """What gradients and sums are computed with.

    Attributes:
        twin: the model's.
        compute: the dtype of autocast; None: the parameters' own.
        wide: the dtype of parameters, losses and sums.
        ranks: the processes that share a global batch.
    """

    twin: TorchTwin
    compute: torch.dtype | None
    wide: torch.dtype
    ranks: Ranks

    def micro_gradient(
        self, state: TorchState, batch: Columns, micro: int, *, is_last: bool
    ) -> Tensor:
        """Adds the gradient of the summed loss of a micro-batch to `.grad`; returns rows (sum,
        weight) of the loss and of the metrics.

        Args:
            state: its module's statistics are updated.
            batch: columns [micro_batch, ...].
            micro: the number of this micro-batch.
            is_last: whether to sum the gradients over the ranks now: once, with those of the last.
        """
        self._seed(state, micro)
        outputs, loss = self._loss(state.module, batch)
        scale = state.numbers.loss_scale
        with state.gradient_sum.during(last=is_last):
            (loss.total if scale is None else loss.total * scale[SCALE]).backward()
        return self._rows(outputs, loss, batch)

    def __call__(self, state: TorchState, global_batch: Columns) -> Tensor:
        """Leaves the gradient of the summed loss of a global batch [num_micro, micro_batch, ...],
        over all ranks, in `.grad`; returns rows (sum, weight) of the loss and of the metrics.
        """
        for param in state.params:
            param.grad = None
        if not state.module.training:
            state.module.train()
        num_micro, sums = len(global_batch["mask"]), None
        for micro in range(num_micro):
            batch = {name: column[micro] for name, column in global_batch.items()}
            before = [s.clone() for s in state.statistics] if num_micro > 1 else []
            with at_step(state.numbers.counters[STEP]):
                rows = self.micro_gradient(state, batch, micro, is_last=micro == num_micro - 1)
            with torch.no_grad():
                sums = rows if sums is None else sums + rows
                # A micro-batch of padding alone says nothing about the data's statistics.
                if before:
                    keep_where(rows[0, 1] > 0, state.statistics, before)
        assert sums is not None, "a global batch has a micro-batch"
        return self.ranks.sum(sums)

    @torch.no_grad()
    def eval_sums(self, state: TorchState, batch: Columns) -> TorchTotals:
        """Computes the sums of this rank's part of an evaluation batch [micro_batch, ...]."""
        state.module.eval()
        names = [name for name, _ in state.module.named_parameters()]
        named = dict(zip(names, state.averages, strict=True)) if state.averages else {}
        call = lambda inputs: torch.func.functional_call(state.module, named, (inputs,))
        with at_step(state.numbers.counters[STEP]):
            outputs, loss = self._loss(call if named else state.module, batch)
            rows = self._rows(outputs, loss, batch)
        return TorchTotals(rows, (batch["mask"] > 0).sum())

    def _loss(
        self, forward: Callable[[Tensor], Tensor], batch: Columns
    ) -> tuple[Tensor, WeightedSum]:
        inputs = batch["inputs"]
        if inputs.is_floating_point():
            inputs = inputs.to(self.wide)
        narrow = self.compute is not None
        with torch.autocast(inputs.device.type, self.compute) if narrow else _PLAIN:
            outputs = forward(self.twin.arrange(inputs))
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return outputs, self.twin.loss(outputs, batch)

    @torch.no_grad()
    def _rows(self, outputs: Tensor, loss: WeightedSum, batch: Columns) -> Tensor:
        metrics = self.twin.metrics(outputs.detach(), batch)
        sums = [loss, *(metrics[name] for name in sorted(metrics))]
        values = [value.detach().to(self.wide) for row in sums for value in row]
        return torch.stack(values).view(-1, 2)

    def _seed(self, state: TorchState, micro: int) -> None:
        """Dropout is a function of the run's key, the step, the micro-batch and the rank."""
        words = [*state.base_key.tolist(), state.step, micro, self.ranks.index]
        text = ",".join(map(str, words)).encode()
        self.ranks.seed(int.from_bytes(hashlib.blake2b(text, digest_size=7).digest()))
