"""The rows that a step computes of each layer. Decides nothing, and changes nothing. The
counterpart of `jax.layer_statistics`.

Loaded by a run that asks for them alone.
"""
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from aetheria.hardware.layout.layer_rows import LayerRows, Part
from aetheria.hardware.torch.guard import Number, Verdict
from aetheria.hardware.torch.ranks import gradient_of
from aetheria.hardware.torch.state import TorchState

# Of a module: the path of every parameter in JAX's layout -> its tensors.
ParamsOf = Callable[[nn.Module], Mapping[str, Sequence[nn.Parameter]]]


class LayerMeter:
    """Measures the layers around an update.

    Args:
        layers: what to compute, and when.
        params_of: the parameters of a module by their paths.
    """

    def __init__(self, layers: LayerRows, params_of: ParamsOf):
        self._layers, self._params_of = layers, params_of

    def measure(
        self,
        state: TorchState,
        verdict: Verdict,
        factor: Number,
        like: Tensor,
        apply: Callable[[], None],
    ) -> Tensor:
        """Applies an update, and returns the rows of the layers.

        Args:
            state: with summed, scaled gradients in `.grad`; `apply` changes it.
            verdict: on the global batch.
            factor: what these gradients are multiplied by for their mean.
            like: has the dtype and the device of the rows.
            apply: applies the verdict.
        """
        is_due = (state.step + 1) % self._layers.every_steps == 0
        may_count = isinstance(verdict.counts, Tensor) or verdict.counts  # else the host knows
        nothing = like.new_zeros(len(self._layers.names), 2)
        if not (is_due and may_count):
            apply()
            return nothing
        named, layers = self._params_of(state.module), self._layers.layers.values()
        groups = [[param for part in parts for param in _tensors(named, part)] for parts in layers]
        grads = [[gradient_of(p) * factor for p in group] for group in groups]
        before = [[p.detach().clone() for p in group] for group in groups]
        apply()
        rows = [nothing[:0]]
        for group, grad, old in zip(groups, grads, before, strict=True):
            update = torch._foreach_sub([p.detach() for p in group], old)
            rows.append(self._rows(grad, list(update), old, like))
        counts = torch.as_tensor(verdict.counts, device=like.device)
        return torch.where(counts, torch.cat(rows), 0)

    def _rows(
        self, grad: list[Tensor], update: list[Tensor], old: list[Tensor], like: Tensor
    ) -> Tensor:
        grad_norm, update_norm, old_norm = (_norm(values, like) for values in (grad, update, old))
        one = torch.ones_like(old_norm)
        sums = torch.stack([grad_norm, update_norm, old_norm, update_norm])
        rows = [torch.stack([sums, torch.stack([one, one, one, old_norm])], dim=1)]
        if self._layers.num_bins:
            counted = [_histogram(values, self._layers.num_bins, like) for values in (grad, update)]
            rows += [torch.stack([counts, torch.ones_like(counts)], dim=1) for counts in counted]
        return torch.cat(rows)


def _tensors(named: Mapping[str, Sequence[nn.Parameter]], part: Part) -> Sequence[nn.Parameter]:
    """A parameter that stacks layers in JAX is a tensor a layer here."""
    tensors = named[part.path]
    return tensors if part.layer is None else [tensors[part.layer]]


def _norm(values: list[Tensor], like: Tensor) -> Tensor:
    wide = torch.float64 if like.device.type == "cpu" else None  # as `Update` computes norms
    norms = torch._foreach_norm(values, 2, wide)
    return torch.linalg.vector_norm(torch.stack(norms)).to(like.dtype)


def _histogram(values: list[Tensor], num_bins: int, like: Tensor) -> Tensor:
    """Counts elements in bins of equal width: f [2 + num_bins], the smallest and the largest value,
    then the counts. Of equal values, the bins are 1 wide in all.
    """
    low = torch.stack([value.amin() for value in values]).amin()
    high = torch.stack([value.amax() for value in values]).amax()
    equal = low == high
    low, high = torch.where(equal, low - 0.5, low), torch.where(equal, high + 0.5, high)
    inner = low + (high - low) * torch.arange(1, num_bins, device=low.device) / num_bins
    below = [torch.stack([(value < edge).sum() for value in values]).sum() for edge in inner]
    ends = low.new_tensor([0.0]), low.new_tensor([sum(value.numel() for value in values)])
    counts = torch.cat([ends[0], torch.stack(below).to(low.dtype), ends[1]]).diff()
    return torch.cat([torch.stack([low, high]), counts]).to(like.dtype)
