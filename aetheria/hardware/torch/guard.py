"""The guard: what becomes of a window, and of the few numbers that decide so.

Twice the same rules, those of `aetheria.model`: on the host for a CPU, where there is nothing to
wait for and arithmetic on tensors of one number takes a third of a small step (490 us with it, 340
without: the MLP of the benchmark); on the device elsewhere, where asking for a number would stop
the queue.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aetheria.hardware.layout.counters import (
    CONSECUTIVE,
    FROZEN,
    IGNORE_UNTIL,
    LAST_SKIPPED,
    NUM_SKIPPED,
    STEP,
)
from aetheria.hardware.layout.loss_scale import (
    GOOD_STEPS,
    GROWTH_PERIOD,
    LARGEST_SCALE,
    SCALE,
    SMALLEST_SCALE,
)


class Numbers(NamedTuple):
    """Plain numbers, or tensors that hold them.

    Attributes:
        counters: six, as `layout.counters` names them.
        loss_scale: two, as `layout.loss_scale` does; None where the loss is not scaled.
        num_updates: updates so far.
    """

    counters: Any
    loss_scale: Any
    num_updates: Any


class Verdict(NamedTuple):
    """On a window.

    Attributes:
        counts: whether it changes anything but counters.
        factor: what its summed, scaled gradients are multiplied by: all divisions and clipping.
        grad_norm: of the gradient before it is clipped.
        numbers: those after it.
    """

    counts: Any
    factor: Any
    grad_norm: Any
    numbers: Numbers


class HostGuard:
    """Decides by numbers on the host."""

    def __init__(self, max_consecutive_skips: int, max_grad_norm: float):
        self._max_skips, self._max_norm = max_consecutive_skips, max_grad_norm

    def place(self, counters: np.ndarray, loss_scale: np.ndarray | None, updates: int) -> Numbers:
        """Numbers of a state that is taken up."""
        scale = None if loss_scale is None else tuple(loss_scale.tolist())
        return Numbers(tuple(counters.tolist()), scale, updates)

    def read(self, numbers: Numbers) -> Numbers:
        """The same on the host."""
        return numbers

    def judge(
        self,
        numbers: Numbers,
        loss: Tensor,
        norm: Tensor,
        *,
        finite_statistics: bool = True,
        finite_update: Callable[[float], bool] = lambda norm: True,
    ) -> Verdict:
        """Judges a window.

        Args:
            numbers: those before it.
            loss: f [2], the sum of its loss and of its weight.
            norm: f [], of its summed, scaled gradients.
            finite_statistics: whether the module's buffers still are.
            finite_update: says of the norm of the gradient, divided and clipped, whether what an
                update makes of it is finite; asked where nothing else speaks against one.
        """
        counters, loss_scale, num_updates = numbers
        (total, weight), scale = loss.tolist(), 1.0 if loss_scale is None else loss_scale[SCALE]
        factor = 1 / weight / scale if weight > 0 else 0.0
        grad_norm = norm.item() * factor
        finite_loss = math.isfinite(total) and math.isfinite(weight)
        finite_gradient = finite_loss and math.isfinite(grad_norm)
        frozen = counters[FROZEN] > 0 or counters[CONSECUTIVE] >= self._max_skips
        finite_state = finite_statistics or not weight > 0
        clipped = self.clip_factor(grad_norm)
        factor *= clipped
        may_count = finite_gradient and finite_state and not frozen and weight > 0
        counts = may_count and finite_update(grad_norm * clipped)
        finite = finite_gradient and finite_state and counts == may_count
        overflow = finite_loss and finite_state and not finite_gradient and not frozen
        forgiven = overflow and loss_scale is not None and scale > SMALLEST_SCALE
        if not frozen:
            counters = _count(counters, finite, forgiven, finite_gradient)
        if loss_scale is not None:
            loss_scale = _adjust(loss_scale, overflow=overflow, good=counts)
        return Verdict(
            counts, factor, grad_norm, Numbers(counters, loss_scale, num_updates + counts)
        )

    def clip_factor(self, grad_norm: float) -> float:
        """What a gradient of that norm is multiplied by."""
        if not self._max_norm or grad_norm < self._max_norm:
            return 1.0
        return self._max_norm / grad_norm


class DeviceGuard:
    """Decides by tensors, and never waits for one."""

    def __init__(self, max_consecutive_skips: int, max_grad_norm: float, device: torch.device):
        self._max_skips, self._max_norm = max_consecutive_skips, max_grad_norm
        self._device = device

    def place(self, counters: np.ndarray, loss_scale: np.ndarray | None, updates: int) -> Numbers:
        """Numbers of a state that is taken up: i32 [6], f32 [2] or None, i64 [1]."""
        scale = None if loss_scale is None else torch.tensor(loss_scale, device=self._device)
        return Numbers(
            torch.tensor(counters, device=self._device),
            scale,
            torch.tensor([updates], device=self._device),
        )

    def read(self, numbers: Numbers) -> Numbers:
        """The same on the host, waited for."""
        counters, scale, updates = numbers
        return Numbers(
            tuple(counters.tolist()),
            None if scale is None else tuple(scale.tolist()),
            int(updates),
        )

    def judge(
        self,
        numbers: Numbers,
        loss: Tensor,
        norm: Tensor,
        *,
        finite_statistics: Tensor | bool = True,
        finite_update: Callable[[Tensor], Tensor | bool] = lambda norm: True,
    ) -> Verdict:
        """Judges a window; see HostGuard."""
        counters, loss_scale, num_updates = numbers
        total, weight = loss
        factor = torch.where(weight > 0, 1 / weight, 0)
        factor = factor if loss_scale is None else factor / loss_scale[SCALE]
        grad_norm = norm * factor
        finite_loss = torch.isfinite(total) & torch.isfinite(weight)
        finite_gradient = finite_loss & torch.isfinite(grad_norm)
        frozen = (counters[FROZEN] > 0) | (counters[CONSECUTIVE] >= self._max_skips)
        finite_state = ~(weight > 0) | finite_statistics
        clipped = torch.ones_like(grad_norm)
        if self._max_norm:
            clipped = torch.where(grad_norm < self._max_norm, 1.0, self._max_norm / grad_norm)
            factor = factor * clipped
        may_count = finite_gradient & finite_state & ~frozen & (weight > 0)
        counts = may_count & finite_update(grad_norm * clipped)
        finite = finite_gradient & finite_state & (counts == may_count)
        overflow = finite_loss & finite_state & ~finite_gradient & ~frozen
        forgiven = torch.zeros_like(overflow)
        if loss_scale is not None:
            forgiven = overflow & (loss_scale[SCALE] > SMALLEST_SCALE)
            loss_scale = _adjust_on_device(loss_scale, overflow, counts)
        counters = torch.where(
            frozen, counters, _count_on_device(counters, finite, forgiven, finite_gradient)
        )
        return Verdict(
            counts, factor, grad_norm, Numbers(counters, loss_scale, num_updates + counts)
        )


def _count(
    counters: tuple[int, ...], finite: bool, forgiven: bool, finite_gradient: bool
) -> tuple[int, ...]:
    step, num_skipped, consecutive, last_skipped, held, examined = counters
    step += 1
    if finite:
        return step, num_skipped, 0, last_skipped, held, examined
    if not forgiven:
        consecutive += 1
        held = step if step > examined else held
    last_skipped = -step if finite_gradient else step
    return step, num_skipped + 1, consecutive, last_skipped, held, examined


def _count_on_device(
    counters: Tensor, finite: Tensor, forgiven: Tensor, finite_gradient: Tensor
) -> Tensor:
    step = counters[STEP] + 1
    bad = ~finite & ~forgiven
    return torch.stack(
        [
            step,
            counters[NUM_SKIPPED] + (~finite).int(),
            torch.where(finite, 0, counters[CONSECUTIVE] + (~forgiven).int()),
            torch.where(finite, counters[LAST_SKIPPED], torch.where(finite_gradient, -step, step)),
            torch.where(bad & (step > counters[IGNORE_UNTIL]), step, counters[FROZEN]),
            counters[IGNORE_UNTIL],
        ]
    ).int()


def _adjust(scaling: tuple[float, ...], *, overflow: bool, good: bool) -> tuple[float, ...]:
    now, good_steps = scaling[SCALE], scaling[GOOD_STEPS] + good
    if overflow:
        return max(now / 2, SMALLEST_SCALE), 0.0
    if good_steps >= GROWTH_PERIOD:
        return min(now * 2, LARGEST_SCALE), 0.0
    return now, good_steps


def _adjust_on_device(scaling: Tensor, overflow: Tensor, good: Tensor) -> Tensor:
    now, good_steps = scaling[SCALE], scaling[GOOD_STEPS] + good
    grows = good_steps >= GROWTH_PERIOD
    smaller, larger = (now / 2).clamp(min=SMALLEST_SCALE), (now * 2).clamp(max=LARGEST_SCALE)
    after = torch.where(overflow, smaller, torch.where(grows, larger, now))
    return torch.stack([after, torch.where(overflow | grows, 0, good_steps)])
