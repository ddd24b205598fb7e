"""The guard: what a step makes of a global batch in which something is not finite.

The rules of `jax.guard`, twice: on the host for a CPU, where there is nothing to wait for and
arithmetic on tensors of one number takes a third of a small step (490 us with it, 340 without: the
MLP of the benchmark); on the device elsewhere, where reading a number would stop the queue.

The guard knows neither the optimizer nor the model: what an update would write, it asks through
`finite_update`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

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

# What the host's guard has as plain numbers, and the device's as tensors.
Flag: TypeAlias = Any  # bool | Tensor [], and only one of them for each guard
Number: TypeAlias = Any  # float | Tensor [], likewise


class Numbers(NamedTuple):
    """What the guard carries from step to step.

    Attributes:
        counters: i [6], see `layout.counters`.
        loss_scale: f [2], see `layout.loss_scale`; None where the loss is not scaled.
        num_updates: the number of updates so far.
    """

    counters: Number
    loss_scale: Number
    num_updates: Number


class Verdict(NamedTuple):
    """On one global batch.

    Attributes:
        counts: whether it changes anything but the guard's numbers.
        factor: what its summed, scaled gradients are multiplied by: all divisions and clipping.
        grad_norm: of the mean gradient, before it is clipped.
        numbers: those after it.
    """

    counts: Flag
    factor: Number
    grad_norm: Number
    numbers: Numbers


class HostGuard:
    """Decides on the host.

    Args:
        max_consecutive_skips: skips in a row after which the state freezes in any case.
        max_grad_norm: the norm that gradients are clipped to; 0: they are not.
    """

    def __init__(self, max_consecutive_skips: int, max_grad_norm: float):
        self._max_skips, self._max_norm = max_consecutive_skips, max_grad_norm

    def place(self, counters: np.ndarray, loss_scale: np.ndarray | None, updates: int) -> Numbers:
        """Makes the numbers of an imported state."""
        scale = None if loss_scale is None else tuple(loss_scale.tolist())
        return Numbers(tuple(counters.tolist()), scale, updates)

    def read(self, numbers: Numbers) -> Numbers:
        """Returns the numbers as plain ones."""
        return numbers

    def judge(
        self,
        numbers: Numbers,
        loss: Tensor,
        norm: Tensor,
        *,
        finite_state: bool = True,
        finite_update: Callable[[float], bool] = lambda norm: True,
    ) -> Verdict:
        """Judges a global batch.

        Args:
            numbers: those before it.
            loss: f [2], the sums of its loss and of its weight, over all micro-batches and ranks.
            norm: f [], the norm of its summed, scaled gradients.
            finite_state: whether its statistics are finite where those before were.
            finite_update: given the norm of the gradient, divided and clipped, whether what the
                update would write is finite. Asked only where nothing else speaks against the
                update.
        """
        counters, loss_scale, num_updates = numbers
        (total, weight), scale = loss.tolist(), 1.0 if loss_scale is None else loss_scale[SCALE]
        factor = 1 / weight / scale if weight > 0 else 0.0
        grad_norm = norm.item() * factor
        finite_loss = math.isfinite(total) and math.isfinite(weight)
        finite_gradient = finite_loss and math.isfinite(grad_norm)
        frozen = counters[FROZEN] > 0 or counters[CONSECUTIVE] >= self._max_skips
        finite_state = finite_state or not weight > 0
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
        """Returns what a gradient of that norm is multiplied by to clip it."""
        if not self._max_norm or grad_norm < self._max_norm:
            return 1.0
        return self._max_norm / grad_norm


class DeviceGuard:
    """Decides on the device, by tensors, and never waits for one; arguments as HostGuard's."""

    def __init__(self, max_consecutive_skips: int, max_grad_norm: float, device: torch.device):
        self._max_skips, self._max_norm = max_consecutive_skips, max_grad_norm
        self._device = device

    def place(self, counters: np.ndarray, loss_scale: np.ndarray | None, updates: int) -> Numbers:
        """Makes the numbers of an imported state: i32 [6], f32 [2] or None, i64 [1]."""
        scale = None if loss_scale is None else torch.tensor(loss_scale, device=self._device)
        return Numbers(
            torch.tensor(counters, device=self._device),
            scale,
            torch.tensor([updates], device=self._device),
        )

    def read(self, numbers: Numbers) -> Numbers:
        """Returns the numbers as plain ones; waits for the device."""
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
        finite_state: Tensor | bool = True,
        finite_update: Callable[[Tensor], Tensor | bool] = lambda norm: True,
    ) -> Verdict:
        """Judges a global batch; arguments as HostGuard's, but tensors."""
        counters, loss_scale, num_updates = numbers
        total, weight = loss
        factor = torch.where(weight > 0, 1 / weight, 0)
        factor = factor if loss_scale is None else factor / loss_scale[SCALE]
        grad_norm = norm * factor
        finite_loss = torch.isfinite(total) & torch.isfinite(weight)
        finite_gradient = finite_loss & torch.isfinite(grad_norm)
        frozen = (counters[FROZEN] > 0) | (counters[CONSECUTIVE] >= self._max_skips)
        finite_state = ~(weight > 0) | finite_state
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
    step, num_skipped, consecutive, last_skipped, frozen, ignore_until = counters
    step += 1
    if finite:
        return step, num_skipped, 0, last_skipped, frozen, ignore_until
    if not forgiven:
        consecutive += 1
        frozen = step if step > ignore_until else frozen
    last_skipped = -step if finite_gradient else step
    return step, num_skipped + 1, consecutive, last_skipped, frozen, ignore_until


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
    now, good_steps = scaling[SCALE], scaling[GOOD_STEPS] + float(good)
    if overflow:
        return max(now / 2, SMALLEST_SCALE), 0.0
    if good_steps >= GROWTH_PERIOD:
        return min(now * 2, LARGEST_SCALE), 0.0
    return now, good_steps


def _adjust_on_device(scaling: Tensor, overflow: Tensor, good: Tensor) -> Tensor:
    now, good_steps = scaling[SCALE], scaling[GOOD_STEPS] + good.float()
    grows = good_steps >= GROWTH_PERIOD
    smaller, larger = (now / 2).clamp(min=SMALLEST_SCALE), (now * 2).clamp(max=LARGEST_SCALE)
    after = torch.where(overflow, smaller, torch.where(grows, larger, now))
    return torch.stack([after, torch.where(overflow | grows, 0, good_steps)])
