"""A described optimizer as PyTorch's own. Knows neither a guard nor a step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax
import torch
from torch import Tensor, nn

from aetheria.errors import AetheriaError
from aetheria.model.model import Model
from aetheria.model.optimizers import (
    SGD,
    Adam,
    AdamW,
    Lion,
    Optimizer,
    UpdateRule,
    has_weight_decay,
)

# optax's name of a parameter's moment -> PyTorch's.
MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer"}


def described(optimizer: Optimizer | optax.GradientTransformation, model: Model) -> Optimizer:
    """Returns what a model's `optimizer` hook returned, if PyTorch can run it.

    Raises:
        AetheriaError: it is one of optax alone.
    """
    if not isinstance(optimizer, Optimizer):
        raise AetheriaError(
            f"strategy: expected with 'torch' a model whose optimizer is an aetheria Optimizer, "
            f"which PyTorch can run, got {type(model).__name__}'s, of optax alone; describe "
            "it, or train with another strategy"
        )
    return optimizer


def make_optimizer(
    rule: UpdateRule, params: Mapping[str, Sequence[nn.Parameter]]
) -> torch.optim.Optimizer:
    """Makes PyTorch's optimizer with all its moments in place, zero.

    Args:
        rule: how parameters are updated.
        params: path of a parameter in JAX's layout -> its tensors.
    """
    decay_mask = [
        p for path, tensors in params.items() if has_weight_decay(rule, path) for p in tensors
    ]
    known = set(map(id, decay_mask))
    plain = [p for tensors in params.values() for p in tensors if id(p) not in known]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decay_mask, getattr(rule, "weight_decay", 0.0)), (plain, 0.0))
        if group
    ]
    made = _to_torch(rule, groups)
    for group in made.param_groups:
        for param in group["params"]:
            made.state[param].update(_first_state(rule, param))
    return made


def moments(rule: UpdateRule) -> tuple[str, ...]:
    """Lists which of PyTorch's moments a rule has."""
    match rule:
        case AdamW() | Adam():
            return ("exp_avg", "exp_avg_sq")
        case Lion():
            return ("exp_avg",)
        case SGD():
            return ("momentum_buffer",) if rule.momentum else ()


def _to_torch(rule: UpdateRule, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    # Fused: one pass over each parameter, and a flag on the device can skip a step.
    match rule:
        case AdamW() | Adam():
            betas = (rule.b1, rule.b2)
            return torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=rule.eps, fused=True)
        case SGD():
            return torch.optim.SGD(
                groups, lr=1.0, momentum=rule.momentum, nesterov=rule.nesterov, fused=True
            )
        case Lion():
            return LionOptimizer(groups, betas=(rule.b1, rule.b2))


def _first_state(rule: UpdateRule, param: Tensor) -> dict[str, Tensor]:
    state = {name: torch.zeros_like(param) for name in moments(rule)}
    if isinstance(rule, AdamW | Adam):
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
    return state


class LionOptimizer(torch.optim.Optimizer):
    """Lion, which PyTorch does not have.

    As in PyTorch's fused optimizers, a step changes nothing where an attribute `found_inf` f32 []
    is not 0.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms" (arXiv:2302.06675),
    algorithm 2.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]):
        super().__init__(groups, {"lr": 1.0, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            lr, (b1, b2) = group["lr"], group["betas"]
            for param in group["params"]:
                average, grad = self.state[param]["exp_avg"], param.grad
                direction = (average * b1 + grad * (1 - b1)).sign() + group["weight_decay"] * param
                self._set(param, param - lr * direction)
                self._set(average, average * b2 + grad * (1 - b2))

    def _set(self, old: Tensor, new: Tensor) -> None:
        skips = self.found_inf
        old.copy_(new if skips is None else torch.where(skips == 0, new, old))
