"""Optimizers as descriptions that every backend can build, so hyperparameters are written once.

A description covers what the optimizers of one name in PyTorch and optax have in common. A model
that needs anything else returns an optax optimizer, and then trains with JAX only.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aetheria.model.averaging import with_average
from aetheria.model.clipping import clip
from aetheria.model.model import Params, Tree

# A learning rate as a user gives it: a number, or a function of the number of updates so far.
LearningRate: TypeAlias = optax.ScalarOrSchedule


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay. Source: Loshchilov & Hutter (arXiv:1711.05101).

    Attributes:
        weight_decay: times the learning rate, the fraction that a parameter loses in a step. The
            libraries' defaults differ by a factor of a hundred, so there is no default here.
        decay_mask: a regular expression searched in a parameter's path, such as
            `Dense_0/kernel`; parameters that it does not match do not decay. Empty: all decay.
    """

    weight_decay: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    decay_mask: str = ""

    def to_optax(self, learning_rate: LearningRate) -> optax.GradientTransformation:
        """Builds it from optax."""
        return optax.adamw(
            learning_rate,
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

    def to_optax(self, learning_rate: LearningRate) -> optax.GradientTransformation:
        """Builds it from optax."""
        return optax.adam(learning_rate, self.b1, self.b2, self.eps)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent; with momentum, `trace = gradient + momentum * trace`. Source:
    Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013).
    """

    momentum: float = 0.0
    nesterov: bool = False

    def to_optax(self, learning_rate: LearningRate) -> optax.GradientTransformation:
        """Builds it from optax."""
        return optax.sgd(learning_rate, self.momentum or None, self.nesterov)


@dataclass(frozen=True, kw_only=True)
class Lion:
    """Updates by the sign of an interpolated momentum. Source: Chen et al. (arXiv:2302.06675).

    Attributes:
        weight_decay, decay_mask: as in AdamW.
    """

    weight_decay: float
    b1: float = 0.9
    b2: float = 0.99
    decay_mask: str = ""

    def to_optax(self, learning_rate: LearningRate) -> optax.GradientTransformation:
        """Builds it from optax."""
        return optax.lion(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            mask=_mask(self.decay_mask),
        )


UpdateRule: TypeAlias = AdamW | Adam | SGD | Lion
_BLOCK = 4096  # updates whose learning rates are read at once


class Optimizer(optax.GradientTransformationExtraArgs):
    """An optax optimizer whose description can be read: clipping, then an update rule under a
    schedule, and optionally averaged parameters beside the trained ones.

    Args:
        rule: turns a gradient into an update.
        learning_rate: a number, or an optax schedule, a function of the number of updates so far.
        max_grad_norm: gradients are clipped to this global norm; 0 turns clipping off.
        ema_decay: the decay of the averaged parameters, see `aetheria.model.averaging`; 0 keeps no
            average.

    Attributes:
        schedule: the learning rate as a function of the number of updates.

    >>> import jax.numpy as jnp
    >>> optimizer = Optimizer(SGD(), 0.5, max_grad_norm=1.0)
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, _ = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    >>> updates["w"]
    Array([-0.3, -0.4], dtype=float32)
    >>> optimizer.learning_rates(3)
    array([0.5, 0.5, 0.5])
    """

    takes = ("grad_norm",)  # the values of a step, beside the gradients, that its update takes
    rule: UpdateRule
    schedule: optax.Schedule
    max_grad_norm: float
    ema_decay: float
    _read: Callable[[int], float]

    def __new__(
        cls,
        rule: UpdateRule,
        learning_rate: LearningRate,
        *,
        max_grad_norm: float = 0.0,
        ema_decay: float = 0.0,
    ):
        # A number stays a number for optax, whose update rules compute with it in float32 or wider;
        # a schedule counts in integers as wide as the run's floats.
        given = _wide_count(learning_rate) if callable(learning_rate) else learning_rate
        made = with_average(ema_decay, clip(max_grad_norm, rule.to_optax(given)))
        made = optax.with_extra_args_support(made)
        self = super().__new__(cls, made.init, made.update)
        self.rule, self.max_grad_norm, self.ema_decay = rule, max_grad_norm, ema_decay
        self.schedule = given if callable(given) else optax.constant_schedule(given)
        self._read = _ReadSchedule(self.schedule)
        return self

    def learning_rate(self, num_updates: int) -> float:
        """Returns the learning rate of the update after `num_updates` updates."""
        return self._read(num_updates)

    def learning_rates(self, num_updates: int) -> np.ndarray:
        """Returns the learning rates of the first updates, f64 [num_updates], each the value that a
        compiled step computes.
        """
        return np.array(jax.vmap(self.schedule)(jnp.arange(num_updates)), np.float64)


def warmup_cosine(
    learning_rate: float,
    total_steps: int,
    *,
    warmup_fraction: float = 0.1,
    warmup_steps: int | None = None,
) -> optax.Schedule:
    """Returns a schedule that rises linearly to `learning_rate` during the warm-up, then falls to
    zero along a cosine.

    Source: Loshchilov & Hutter, "SGDR" (arXiv:1608.03983), one cycle.

    Args:
        learning_rate: the largest value.
        total_steps: the length of the run.
        warmup_fraction: the share of it that is the warm-up, one step at least.
        warmup_steps: the length of the warm-up, instead of `warmup_fraction`.
    """
    steps = _num_warmup(total_steps, warmup_steps, warmup_fraction)
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, steps, max(total_steps, steps + 1)
    )


def warmup_linear(
    learning_rate: float, total_steps: int, *, warmup_steps: int | None = None
) -> optax.Schedule:
    """As `warmup_cosine`, but falls along a line."""
    steps = _num_warmup(total_steps, warmup_steps)
    fall = optax.linear_schedule(learning_rate, 0.0, max(total_steps - steps, 1))
    return _after_warmup(learning_rate, steps, fall)


def warmup_constant(
    learning_rate: float, total_steps: int, *, warmup_steps: int | None = None
) -> optax.Schedule:
    """As `warmup_cosine`, but stays at `learning_rate`."""
    steps = _num_warmup(total_steps, warmup_steps)
    return _after_warmup(learning_rate, steps, optax.constant_schedule(learning_rate))


def _num_warmup(total_steps: int, warmup_steps: int | None, fraction: float = 0.1) -> int:
    return max(1, int(total_steps * fraction)) if warmup_steps is None else warmup_steps


def _after_warmup(learning_rate: float, steps: int, schedule: optax.Schedule) -> optax.Schedule:
    if not steps:
        return schedule
    rise = optax.linear_schedule(0.0, learning_rate, steps)
    return optax.join_schedules([rise, schedule], [steps])


# By the names that a config may use.
SCHEDULES = {"cosine": warmup_cosine, "linear": warmup_linear, "constant": warmup_constant}


def schedules(
    optimizer: optax.GradientTransformation,
) -> Mapping[str, Callable[[int], float]]:
    """Returns the schedules of an optimizer that can be read: name -> value at a step, counted from
    1. An optax optimizer hides its schedules, so there are none.

    >>> rate = schedules(Optimizer(SGD(), lambda count: 0.5**count))["learning rate"]
    >>> rate(1), rate(3)
    (1.0, 0.25)
    >>> schedules(optax.sgd(0.1))
    {}
    """
    if not isinstance(optimizer, Optimizer):
        return {}
    return {"learning rate": lambda step: optimizer.learning_rate(max(0, step - 1))}


def hyperparameters_of(
    optimizer: optax.GradientTransformation,
) -> Callable[[int], Mapping[str, float]] | None:
    """Returns a function from the number of updates so far to the hyperparameters of the next one,
    by name, in seven digits; None: the optimizer hides them, as those of optax do.
    """
    if not isinstance(optimizer, Optimizer):
        return None
    return lambda count: {"learning_rate": float(f"{optimizer.learning_rate(count):.7g}")}


class _ReadSchedule:
    """A schedule on the host: computed for many updates at once, since each call of a schedule is
    several operations of JAX.
    """

    def __init__(self, schedule: optax.Schedule):
        self._schedule = jax.jit(jax.vmap(schedule))
        self._first, self._block = -1, np.zeros(0)

    def __call__(self, num_updates: int) -> float:
        first = num_updates - num_updates % _BLOCK
        if first != self._first:
            counts = np.arange(first, first + _BLOCK)
            self._first, self._block = first, np.asarray(self._schedule(counts))
        return float(self._block[num_updates - first])


def has_weight_decay(rule: UpdateRule, path: str) -> bool:
    """Returns whether a rule with weight decay decays the parameter at this path.

    >>> rule = AdamW(weight_decay=0.1, decay_mask="kernel$")
    >>> has_weight_decay(rule, "Dense_0/kernel"), has_weight_decay(rule, "Dense_0/bias")
    (True, False)
    """
    return re.search(getattr(rule, "decay_mask", ""), path) is not None


def _wide_count(schedule: optax.Schedule) -> optax.Schedule:
    """A schedule that computes in as many bits as the run: optax's 32-bit count would make a
    float32 even where everything else is float64.
    """
    return lambda count: schedule(jnp.asarray(count, int))


def _mask(pattern: str) -> Callable[[Params], Tree] | None:
    if not pattern:
        return None

    def matches(path: jax.tree_util.KeyPath, _: object) -> bool:
        text = jax.tree_util.keystr(path, simple=True, separator="/")
        return re.search(pattern, text) is not None

    return lambda params: jax.tree.map_with_path(matches, params)
