"""The second half of a step in PyTorch: guard, update, count. The twin of `make_update`."""
# PyTorch has no public names for its operations on lists of tensors, which its optimizers use too.
# pyright: reportPrivateImportUsage=false

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aetheria.hardware.layout.loss_scale import SCALE
from aetheria.hardware.torch.guard import DeviceGuard, HostGuard, Verdict
from aetheria.hardware.torch.ranks import gradient_of
from aetheria.hardware.torch.reach import Bound, Reach, reach_of
from aetheria.hardware.torch.state import TorchState
from aetheria.model.optimizers import Optimizer


class Update:
    """What is done with a window's gradients.

    Args:
        optimizer: as the model describes it.
        rates: the learning rate after each number of updates.
        max_consecutive_skips: non-finite windows in a row after which the state freezes.
        device: where the parameters are.
        on_host: whether the guard decides on the host; None: where the device is a CPU.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        rates: np.ndarray,
        *,
        max_consecutive_skips: int,
        device: torch.device,
        on_host: bool | None = None,
    ):
        limits = max_consecutive_skips, optimizer.max_grad_norm
        on_host = device.type == "cpu" if on_host is None else on_host
        self.guard = HostGuard(*limits) if on_host else DeviceGuard(*limits, device)
        self._on_host, self._ema_decay = on_host, optimizer.ema_decay
        self._bound = functools.cache(lambda dtype: Bound(optimizer.rule, dtype))
        self._bound(torch.float32)  # refuses a rule before anything is trained
        # PyTorch's fused kernels take a learning rate on the device in float32 alone.
        self._rates: Any = (
            rates.tolist() if on_host else torch.from_numpy(rates).to(device, torch.float32)
        )

    @torch.no_grad()
    def __call__(self, state: TorchState, loss: Tensor, before: list[Tensor]) -> list[Any]:
        """Takes the step, or does not.

        Args:
            state: with summed, scaled gradients in `.grad`; changed.
            loss: f [2], the sum of the loss and of the weight.
            before: the state's statistics as they were before the window.

        Returns:
            Whether it was taken, the gradient's norm and, if there is one, the loss scale it was
            taken with.
        """
        grads = [gradient_of(param) for param in state.params]
        verdict = self.guard.judge(
            state.numbers,
            loss,
            self._norm(grads),
            finite_statistics=self._keeps_finite(state, before),
            finite_update=lambda norm: self._reaches(state, norm),
        )
        if self._on_host:
            self._update_if(verdict, state, grads, before)
        else:
            self._update_where(verdict, state, grads, before)
        scale = state.numbers.loss_scale
        state.numbers = verdict.numbers
        state.step += 1
        return [verdict.counts, verdict.grad_norm, *([] if scale is None else [scale[SCALE]])]

    def _norm(self, grads: list[Tensor]) -> Tensor:
        """The norm of all gradients together."""
        # A CPU adds float32 squares one after the other: of 800,000, the norm was off by 4e-5
        # (torch 2.13), and with it everything that is clipped.
        wide = torch.float64 if self._on_host else None
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads, 2, wide)))

    def _keeps_finite(self, state: TorchState, before: list[Tensor]) -> Any:
        """Whether each number of the statistics that was finite is so still, on all ranks."""
        if not before:
            return True
        kept = [
            (new.isfinite() | ~old.isfinite()).all()
            for new, old in zip(state.statistics, before, strict=True)
        ]
        lost = state.gradient_sum.ranks.sum((~torch.stack(kept)).sum())
        return lost.item() == 0 if self._on_host else lost == 0

    def _reaches(self, state: TorchState, norm: Any) -> Any:
        """Whether all that an update with a gradient of that norm writes is surely finite."""
        bound, updates = self._bound(state.params[0].dtype), state.numbers.num_updates
        written = [*state.params, *state.averages]
        read = lambda: reach_of(written, list(state.optimizer.state.values()))
        if not self._on_host:
            rate = self._rates.index_select(0, updates)[0].double()
            return bound.is_finite(bound.after(read(), norm.double(), rate))
        # The host goes on from what it knew, which is never less; and looks where that is too much.
        reach = bound.after(state.reach, norm, self._rates[updates])
        if not bound.is_finite(reach):
            now = Reach(*map(float, read()))
            reach = bound.after(now, norm, self._rates[updates])
        if finite := bound.is_finite(reach):
            state.reach = reach
        return finite

    def _update_if(
        self, verdict: Verdict, state: TorchState, grads: list[Tensor], before: list[Tensor]
    ) -> None:
        if not verdict.counts:
            torch._foreach_copy_(state.statistics, before) if before else None
            return
        num_updates = state.numbers.num_updates
        torch._foreach_mul_(grads, verdict.factor)
        for group in state.optimizer.param_groups:
            group["lr"] = self._rates[num_updates]
        state.optimizer.step()
        if state.averages:
            pull = 1 - min(self._ema_decay, (1 + num_updates) / (10 + num_updates))
            torch._foreach_lerp_(state.averages, list[Tensor](state.params), pull)

    def _update_where(
        self, verdict: Verdict, state: TorchState, grads: list[Tensor], before: list[Tensor]
    ) -> None:
        counts, num_updates = verdict.counts, state.numbers.num_updates
        torch._foreach_mul_(grads, verdict.factor)
        for group in state.optimizer.param_groups:
            group["lr"] = self._rates.index_select(0, num_updates)[0]
        state.optimizer.found_inf = (~counts).float()
        state.optimizer.step()
        keep_where(counts, state.statistics, before)
        if state.averages:
            t = num_updates[0].double()
            pull = (1 - ((1 + t) / (10 + t)).clamp(max=self._ema_decay)) * counts
            for average, param in zip(state.averages, state.params, strict=True):
                average += pull * (param - average)


def keep_where(good: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
    """Puts back what was before where it is not good now."""
    for new, old in zip(now, before, strict=True):
        new.copy_(torch.where(good, new, old))
