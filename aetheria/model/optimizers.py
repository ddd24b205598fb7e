"""An optimizer as a description, which every backend can make: hyperparameters are written once.

What is described is what PyTorch's and optax's optimizers of one name have in common. A model that
needs anything else returns optax's own, and then trains with JAX alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aetheria.model.averaging import with_average
from aetheria.model.clipping import clip


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay. Source: Loshchilov & Hutter (arXiv:1711.05101).

    Attributes:
        weight_decay: times the learning rate, what a parameter loses of itself in a step. The
            libraries' defaults differ by a factor of a hundred, so there is none here.
        decay_mask: a regular expression searched in a parameter's path, such as
            `Dense_0/kernel`; parameters in which it is not found do not decay.
    """

    weight_decay: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    decay_mask: str = ""

    def to_optax(self, schedule: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """Makes it of optax."""
        return optax.adamw(
            schedule,
            self.b1,
            self.b2,
            self.eps,
            weight_decay=self.weight_decay,
            mask=_mask(self.decay_mask),
        )


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Source: Kingma & Ba (arXiv:1412.6980)."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def to_optax(self, schedule: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """Makes it of optax."""
        return optax.adam(schedule, self.b1, self.b2, self.eps)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent; with momentum, `trace = gradient + momentum * trace`. Source:
    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013).
    """

    momentum: float = 0.0
    nesterov: bool = False

    def to_optax(self, schedule: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """Makes it of optax."""
        return optax.sgd(schedule, self.momentum or None, self.nesterov)


@dataclass(frozen=True, kw_only=True)
class Lion:
    """Steps by the sign of an interpolated momentum. Source: Chen et al. (arXiv:2302.06675).

    Attributes:
        weight_decay, decay_mask: as in AdamW.
    """

    weight_decay: float
    b1: float = 0.9
    b2: float = 0.99
    decay_mask: str = ""

    def to_optax(self, schedule: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """Makes it of optax."""
        return optax.lion(
            schedule,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            mask=_mask(self.decay_mask),
        )


UpdateRule = AdamW | Adam | SGD | Lion


class Optimizer(optax.GradientTransformationExtraArgs):
    """An optax optimizer that can also be read: clipping, then a rule under a schedule, and
    averaged parameters beside the trained ones if they are wanted.

    Args:
        rule: what becomes of a gradient.
        learning_rate: a number, or optax's function of how many updates there were.
        max_grad_norm: the gradient is clipped to this global norm; 0: it is not.
        ema_decay: of the averaged parameters, see `aetheria.model.averaging`; 0: there are none.

    >>> import jax.numpy as jnp
    >>> optimizer = Optimizer(SGD(), 0.5, max_grad_norm=1.0)
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, _ = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    >>> updates["w"]
    Array([-0.3, -0.4], dtype=float32)
    """

    takes = ("grad_norm",)  # of the step's values beside the gradients
    rule: UpdateRule
    schedule: Callable[[Any], Any]
    max_grad_norm: float
    ema_decay: float

    def __new__(
        cls,
        rule: UpdateRule,
        learning_rate: optax.ScalarOrSchedule,
        *,
        max_grad_norm: float = 0.0,
        ema_decay: float = 0.0,
    ):
        schedule = _counted_widely(learning_rate) if callable(learning_rate) else learning_rate
        made = with_average(ema_decay, clip(max_grad_norm, rule.to_optax(schedule)))
        made = optax.with_extra_args_support(made)
        self = super().__new__(cls, made.init, made.update)
        self.rule, self.max_grad_norm, self.ema_decay = rule, max_grad_norm, ema_decay
        self.schedule = schedule if callable(schedule) else optax.constant_schedule(schedule)
        return self


def warmup_cosine(
    learning_rate: float, total_steps: int, *, warmup_fraction: float = 0.1
) -> optax.Schedule:
    """Rises linearly to `learning_rate` over the warm-up, then falls by a cosine to zero.

    Source: Loshchilov & Hutter, "SGDR" (arXiv:1608.03983), one cycle.
    """
    warmup_steps = max(1, int(total_steps * warmup_fraction))
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, max(total_steps, warmup_steps + 1)
    )


def schedules(
    optimizer: optax.GradientTransformation,
) -> Mapping[str, Callable[[int], float]]:
    """What can be read of an optimizer's schedules: name -> value at a step. Empty where it is
    optax's own, which hides them.

    >>> rate = schedules(Optimizer(SGD(), lambda count: 0.5**count))["learning rate"]
    >>> rate(1), rate(3)
    (1.0, 0.25)
    >>> schedules(optax.sgd(0.1))
    {}
    """
    if not isinstance(optimizer, Optimizer):
        return {}
    return {"learning rate": lambda step: float(optimizer.schedule(max(0, step - 1)))}


def has_weight_decay(rule: UpdateRule, path: str) -> bool:
    """Whether weight decay takes of the parameter at this path.

    >>> rule = AdamW(weight_decay=0.1, decay_mask="kernel$")
    >>> has_weight_decay(rule, "Dense_0/kernel"), has_weight_decay(rule, "Dense_0/bias")
    (True, False)
    """
    return re.search(getattr(rule, "decay_mask", ""), path) is not None


def _counted_widely(schedule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A schedule of as many bits as the run has: of optax's count of 32 bits it would make a
    float32 even where everything else is float64.
    """
    return lambda count: schedule(jnp.asarray(count, int))


def _mask(pattern: str) -> Callable[[Any], Any] | None:
    if not pattern:
        return None

    def mask(params: Any) -> Any:
        found = lambda path, _: re.search(pattern, _text(path)) is not None
        return jax.tree.map_with_path(found, params)

    return mask


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
