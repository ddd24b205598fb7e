"""The second half of a step in PyTorch: the guard's verdict on a gradient, and its application.

Knows no model: gradients, sums and statistics are all it is given. The counterpart of `jax.update`.
"""
# PyTorch has no public names for its operations on lists of tensors, which its optimizers use too.
# pyright: reportPrivateImportUsage=false

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aetheria.hardware.layout.loss_scale import SCALE
from aetheria.hardware.torch.guard import DeviceGuard, Flag, HostGuard, Number, Verdict
from aetheria.hardware.torch.ranks import gradient_of
from aetheria.hardware.torch.reach import Bound, Reach, reach_of
from aetheria.hardware.torch.state import TorchState
from aetheria.model.optimizers import Optimizer

if TYPE_CHECKING:  # most runs have no statistics of layers
    from aetheria.hardware.torch.layer_statistics import LayerMeter


class Update:
    """Judges a gradient, then applies the verdict.

    Args:
        optimizer: as the model describes it.
        rates: the learning rate after each number of updates.
        max_consecutive_skips: non-finite global batches in a row after which the state freezes.
        device: where the parameters are.
        on_host: whether the guard decides on the host; None: where the device is a CPU.
        meter: measures the layers; None: nothing does.

    Attributes:
        guard: what judges.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        rates: np.ndarray,
        *,
        max_consecutive_skips: int,
        device: torch.device,
        on_host: bool | None = None,
        meter: "LayerMeter | None" = None,
    ):
        limits = max_consecutive_skips, optimizer.max_grad_norm
        on_host = device.type == "cpu" if on_host is None else on_host
        self.guard = HostGuard(*limits) if on_host else DeviceGuard(*limits, device)
        self._on_host, self._ema_decay = on_host, optimizer.ema_decay
        self._meter = meter
        self._bound = functools.cache(lambda dtype: Bound(optimizer.rule, dtype))
        self._bound(torch.float32)  # refuses a rule before anything is trained
        # PyTorch's fused kernels take a learning rate on the device in float32 alone.
        self._host_rates = rates.tolist() if on_host else []
        self._device_rates = torch.from_numpy(rates).to(device, torch.float32)

    @torch.no_grad()
    def __call__(self, state: TorchState, sums: Tensor, before: list[Tensor]) -> Tensor:
        """Judges a global batch, applies the verdict, and makes the report of the step.

        Args:
            state: with summed, scaled gradients in `.grad`; changed.
            sums: f [1 + metrics, 2], rows (sum, weight) of the loss and of the metrics.
            before: the state's statistics as they were before the global batch.

        Returns:
            f [2 + metrics, 2], the rows of the step; after them those of the layers, if there are.
        """
        verdict, loss_scale = self.judge(state, sums[0], before), state.numbers.loss_scale
        scale = None if loss_scale is None else loss_scale[SCALE]
        report = make_report(verdict, sums, scale)
        apply = lambda: self.apply(verdict, state, before)
        if self._meter is None:
            apply()
            return report
        mean = 1 / sums[0, 1] if scale is None else 1 / sums[0, 1] / scale
        return torch.cat([report, self._meter.measure(state, verdict, mean, report, apply)])

    def judge(self, state: TorchState, loss: Tensor, before: list[Tensor]) -> Verdict:
        """Asks the guard; the state is left as it is."""
        return self.guard.judge(
            state.numbers,
            loss,
            self._norm([gradient_of(param) for param in state.params]),
            finite_state=self._keeps_finite(state, before),
            finite_update=lambda norm: self._reaches(state, norm),
        )

    def apply(self, verdict: Verdict, state: TorchState, before: list[Tensor]) -> None:
        """Updates the state where the global batch counts, else puts the statistics back; the
        guard's numbers are new in any case.
        """
        if self._on_host:
            self._apply_if(verdict, state, before)
        else:
            self._apply_where(verdict, state, before)
        state.numbers = verdict.numbers
        state.step += 1

    def _apply_if(self, verdict: Verdict, state: TorchState, before: list[Tensor]) -> None:
        if not verdict.counts:
            torch._foreach_copy_(state.statistics, before) if before else None
            return
        num_updates = state.numbers.num_updates
        torch._foreach_mul_([gradient_of(param) for param in state.params], verdict.factor)
        for group in state.optimizer.param_groups:
            group["lr"] = self._host_rates[num_updates]
        state.optimizer.step()
        if state.averages:
            pull = 1 - min(self._ema_decay, (1 + num_updates) / (10 + num_updates))
            torch._foreach_lerp_(state.averages, list[Tensor](state.params), pull)

    def _apply_where(self, verdict: Verdict, state: TorchState, before: list[Tensor]) -> None:
        counts, num_updates = verdict.counts, state.numbers.num_updates
        optimizer: Any = state.optimizer  # `found_inf` is known to fused optimizers alone
        torch._foreach_mul_([gradient_of(param) for param in state.params], verdict.factor)
        for group in state.optimizer.param_groups:
            group["lr"] = self._device_rates.index_select(0, num_updates)[0]
        optimizer.found_inf = (~counts).float()
        optimizer.step()
        keep_where(counts, state.statistics, before)
        if state.averages:
            t = num_updates[0].double()
            pull = (1 - ((1 + t) / (10 + t)).clamp(max=self._ema_decay)) * counts
            for average, param in zip(state.averages, state.params, strict=True):
                average += pull * (param - average)

    def _norm(self, grads: list[Tensor]) -> Tensor:
        """Computes the norm of all gradients together."""
        # A CPU adds float32 squares one after the other: with 800,000 of them the norm was off by
        # 4e-5 (torch 2.13), and with it everything that is clipped.
        wide = torch.float64 if self._on_host else None
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads, 2, wide)))

    def _keeps_finite(self, state: TorchState, before: list[Tensor]) -> Flag:
        """Whether each number of the statistics that was finite still is, on all ranks."""
        if not before:
            return True
        kept = [
            (new.isfinite() | ~old.isfinite()).all()
            for new, old in zip(state.statistics, before, strict=True)
        ]
        lost = state.gradient_sum.ranks.sum((~torch.stack(kept)).sum())
        return lost.item() == 0 if self._on_host else lost == 0

    def _reaches(self, state: TorchState, norm: Number) -> Flag:
        """Whether all that an update with a gradient of that norm writes is surely finite."""
        bound, updates = self._bound(state.params[0].dtype), state.numbers.num_updates
        written = [*state.params, *state.averages]
        read = lambda: reach_of(written, list(state.optimizer.state.values()))
        if isinstance(norm, Tensor):
            rate = self._device_rates.index_select(0, updates)[0].double()
            return bound.is_finite(bound.after(read(), norm.double(), rate))
        # The host continues from the bound it knew, which is never too small, and reads the state
        # where that bound is too large.
        reach = bound.after(state.reach, norm, self._host_rates[updates])
        if not bound.is_finite(reach):
            now = Reach(*map(float, read()))
            reach = bound.after(now, norm, self._host_rates[updates])
        if finite := bound.is_finite(reach):
            state.reach = reach
        return finite


def make_report(verdict: Verdict, sums: Tensor, loss_scale: Number | None) -> Tensor:
    """Packs the rows of one step; `loss_scale` is the one that it was taken with."""
    norm = torch.as_tensor(verdict.grad_norm, dtype=sums.dtype, device=sums.device)
    rows = torch.cat([sums[:1], torch.stack([norm, torch.ones_like(norm)])[None], sums[1:]])
    rows = torch.where(torch.as_tensor(verdict.counts, device=rows.device), rows, 0)
    if loss_scale is None:
        return rows
    latest = torch.tensor([[0.0, 1.0]], dtype=rows.dtype, device=rows.device)
    latest[0, 0] = loss_scale
    return torch.cat([rows[:2], latest, rows[2:]])


def keep_where(good: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
    """Puts back what was before where it is not good now."""
    for new, old in zip(now, before, strict=True):
        new.copy_(torch.where(good, new, old))
