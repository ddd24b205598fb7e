"""Known errors on the side of PyTorch, which `aetheria parity --control` must detect."""

from typing import Any

import numpy as np
import torch

from aetheria.errors import AetheriaError
from aetheria.hardware.torch.guard import HostGuard
from aetheria.hardware.torch.program import TorchProgram
from aetheria.hardware.torch.state import TorchState
from aetheria.tools.parity.comparison import Leaves

# What `torch.nn.utils.clip_grad_norm_` adds to the norm it divides by.
_ADDED_BY_TORCH = 1e-6


def other_eps(program: TorchProgram, state: TorchState, arrays: Leaves) -> None:
    """Gives norms the epsilon of the other library: 1e-6 is the LayerNorm default in Flax, 1e-5 in
    PyTorch. In a network without norms, changes the epsilon of the optimizer.
    """
    norms: list[Any] = [module for module in state.module.modules() if hasattr(module, "eps")]
    for norm in norms:
        norm.eps = 1e-6 if norm.eps != 1e-6 else 1e-5
    groups = [group for group in state.optimizer.param_groups if "eps" in group and not norms]
    for group in groups:
        group["eps"] *= 10
    if not (norms or groups):
        raise AetheriaError(
            "--control eps: expected a norm or an optimizer with an epsilon, got a model with "
            "neither; use another control"
        )


def torch_clipping(program: TorchProgram, state: TorchState, arrays: Leaves) -> None:
    """Clips gradients as PyTorch's own function does."""
    guard = program.stepper.update.guard
    assert isinstance(guard, HostGuard), "parity runs on the host"
    guard.__class__ = _TorchClipping


class _TorchClipping(HostGuard):
    """Clips by a norm plus a small constant."""

    def clip_factor(self, grad_norm: float) -> float:
        return super().clip_factor(grad_norm + _ADDED_BY_TORCH) if grad_norm else 1.0


def no_transpose(program: TorchProgram, state: TorchState, arrays: Leaves) -> None:
    """Loads the first matrix as it is in memory, without its transpose."""
    rules = program.link.rules.values()
    turned = [r for r in rules if r.dims and r.leaf.startswith("params/") and not r.layers]
    stacked = [r for r in rules if r.dims and r.layers]
    rule = (turned or stacked)[0]
    leaf = np.asarray(arrays[rule.leaf])
    tensor = dict(state.module.named_parameters())[rule.names[0]]
    piece = leaf[0] if rule.layers else leaf
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(piece).reshape(tensor.shape)))


TRAPS = {"eps": other_eps, "clip": torch_clipping, "transpose": no_transpose}
