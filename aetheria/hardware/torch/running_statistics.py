"""Batch norm with the running statistics of JAX's: over all ranks' examples, with the biased
variance. Knows no step.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def share_statistics(module: nn.Module, *, over_ranks: bool) -> None:
    """Makes every `nn.BatchNorm…` in a module keep running statistics as Flax does, and normalize
    by the examples of all ranks, if there are several.

    PyTorch divides the sum of squares that it keeps by one less than their number (Bessel's
    correction), but normalizes with their number.
    """
    for child in module.modules():
        if isinstance(child, _BatchNorm) and child.track_running_stats and child.affine:
            forward: Any = _Forward(child, over_ranks)
            child.forward = forward  # an instance attribute: names and values stay the module's own


class _Forward:
    """The forward pass of a batch norm: inputs [batch, channel, ...]."""

    def __init__(self, norm: _BatchNorm, over_ranks: bool):
        self._norm: Any = norm
        self._over_ranks = over_ranks

    def __call__(self, x: Tensor) -> Tensor:
        norm = self._norm
        if not norm.training:
            mean, var = norm.running_mean, norm.running_var
            return F.batch_norm(x, mean, var, norm.weight, norm.bias, False, 0.0, norm.eps)
        return self._of_all(x) if self._over_ranks else self._of_one(x)

    def _of_one(self, x: Tensor) -> Tensor:
        """Uses PyTorch's own kernel, which leaves its statistics in two vectors of ours."""
        norm, count = self._norm, x.numel() / x.shape[1]
        mean, var = torch.empty_like(norm.running_mean), torch.empty_like(norm.running_var)
        # With a momentum of 1 nothing of what the vectors held remains, except a NaN.
        y = F.batch_norm(x, mean.zero_(), var.zero_(), norm.weight, norm.bias, True, 1.0, norm.eps)
        self._keep(mean, var * ((count - 1) / count))
        return y

    def _of_all(self, x: Tensor) -> Tensor:
        """Sums over the ranks, as `nn.SyncBatchNorm` does, but that one on GPUs alone."""
        norm, rest = self._norm, [dim for dim in range(x.ndim) if dim != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.full((1,), x.numel() / x.shape[1], dtype=wide.dtype, device=x.device)
        sums = _SumOverRanks.apply(torch.cat([wide.sum(rest), count]))
        mean = _seen(sums[:-1] / sums[-1], x)
        squares = _SumOverRanks.apply(((wide - mean) ** 2).sum(rest))
        var = squares / sums[-1].detach()
        scaled = (wide - mean) * _seen((var + norm.eps).rsqrt() * norm.weight, x)
        self._keep(mean.detach().flatten(), var.detach())
        return (scaled + _seen(norm.bias, x)).to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, var: Tensor) -> None:
        norm = self._norm
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_(var.to(norm.running_var.dtype), norm.momentum)


def _seen(vector: Tensor, x: Tensor) -> Tensor:
    """Shapes a vector over channels so that it broadcasts over x."""
    return vector.view(1, -1, *(1,) * (x.ndim - 2))


class _SumOverRanks(torch.autograd.Function):
    """A sum over all ranks: of values, and in the backward pass of gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total
