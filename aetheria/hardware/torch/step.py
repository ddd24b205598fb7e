"""The first half of a step in PyTorch, the gradient of a window, and evaluation.

The counterparts of the JAX backend's `gradient` and `step`, which say what is promised.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aetheria.hardware.layout.loss_scale import SCALE
from aetheria.hardware.torch.ranks import Ranks
from aetheria.hardware.torch.state import TorchState
from aetheria.hardware.torch.twin import TorchTwin, WeightedSum
from aetheria.hardware.torch.update import Update, keep_where

Columns = Mapping[str, Tensor]
_AS_IT_IS = contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """What steps are taken with.

    Attributes:
        twin: the model's.
        update: what is done with a gradient.
        compute: the dtype of autocast; None: the parameters' own.
        wide: the dtype of parameters, losses and sums.
        ranks: the processes that share a window.
    """

    twin: TorchTwin
    update: Update
    compute: torch.dtype | None
    wide: torch.dtype
    ranks: Ranks

    def train_step(
        self, state: TorchState, global_batch: Columns, since: Tensor | None = None
    ) -> Tensor:
        """Takes one optimizer step.

        Args:
            state: changed in place.
            global_batch: columns [grad_accumulation_steps, micro_batch, ...].
            since: the rows of the interval so far; None: of no step.

        Returns:
            f [2 + metrics, 2], those with this step's, as in `layout.report_rows`.
        """
        before = [statistic.clone() for statistic in state.statistics]
        rows = self.gradient(state, global_batch)
        counts, norm, *scale = self.update(state, rows[0], before)
        norm = torch.as_tensor(norm, dtype=self.wide, device=rows.device)
        rows = torch.cat([rows[:1], torch.stack([norm, torch.ones_like(norm)])[None], rows[1:]])
        rows = torch.where(torch.as_tensor(counts, device=rows.device), rows, 0)
        if scale:  # the latest: a mean of scales would be none
            latest = torch.tensor([[0.0, 1.0]], dtype=self.wide, device=rows.device)
            latest[0, 0] = scale[0]
            rows = torch.cat([rows[:2], latest, rows[2:]])
        if since is None:
            return rows
        total = since + rows
        if scale:
            total[2] = rows[2]
        return total

    def gradient(self, state: TorchState, global_batch: Columns) -> Tensor:
        """Leaves the gradient of the summed loss of the window, of all ranks, in `.grad`; returns
        rows (sum, weight) of the loss and of the metrics.
        """
        for param in state.params:
            param.grad = None
        if not state.module.training:
            state.module.train()
        num_micro, sums = len(global_batch["mask"]), None
        for micro in range(num_micro):
            batch = {name: column[micro] for name, column in global_batch.items()}
            before = [s.clone() for s in state.statistics] if num_micro > 1 else []
            self._seed(state, micro)
            outputs, loss = self._loss(state.module, batch)
            scale = state.numbers.loss_scale
            # Gradients go from rank to rank once, with those of the last micro-batch.
            with state.gradient_sum.during(last=micro == num_micro - 1):
                (loss.total if scale is None else loss.total * scale[SCALE]).backward()
            with torch.no_grad():
                rows = self._rows(outputs, loss, batch)
                sums = rows if sums is None else sums + rows
                if before:  # a micro-batch of padding alone says nothing of the data's statistics
                    keep_where(rows[0, 1] > 0, state.statistics, before)
        assert sums is not None, "a window has a micro-batch"
        return self.ranks.sum(sums)

    @torch.no_grad()
    def eval_sums(self, state: TorchState, batch: Columns) -> tuple[Tensor, Tensor]:
        """Rows (sum, weight) of loss and metrics of this rank's part of a batch, and how many
        examples these are.
        """
        state.module.eval()
        names = [name for name, _ in state.module.named_parameters()]
        named = dict(zip(names, state.averages, strict=True)) if state.averages else {}
        call = lambda inputs: torch.func.functional_call(state.module, named, (inputs,))
        outputs, loss = self._loss(call if named else state.module, batch)
        rows = self._rows(outputs, loss, batch)
        return rows, (batch["mask"] > 0).sum()

    def _loss(self, forward: Any, batch: Columns) -> tuple[Tensor, WeightedSum]:
        inputs = batch["inputs"]
        if inputs.is_floating_point():
            inputs = inputs.to(self.wide)
        narrow = self.compute is not None
        with torch.autocast(inputs.device.type, self.compute) if narrow else _AS_IT_IS:
            outputs = forward(self.twin.arrange(inputs))
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return outputs, self.twin.loss(outputs, batch)

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
