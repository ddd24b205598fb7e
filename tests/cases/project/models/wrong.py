"""One mistake each. Today: tracebacks of 41 to 89 lines, or silence."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from flax import linen as nn

from aetheria import LinenModel, register_model, weighted


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(1)(nn.relu(nn.Dense(16)(x)))


@dataclass(frozen=True)
class Right(LinenModel):
    def network(self):
        return Net()

    def score(self, outputs, batch):
        return weighted((outputs[:, 0] - batch["labels"]) ** 2, batch["mask"]), {}

    def optimizer(self, total_steps):
        return optax.adam(1e-3)


@register_model("Broadcasts")  # [batch, 1] - [batch]: a square; today it trains without a word
@dataclass(frozen=True)
class Broadcasts(Right):
    def score(self, outputs, batch):
        return weighted((outputs - batch["labels"]) ** 2, batch["mask"]), {}


@register_model("Mean")  # a mean where a weighted sum is asked for
@dataclass(frozen=True)
class Mean(Right):
    def score(self, outputs, batch):
        return ((outputs[:, 0] - batch["labels"]) ** 2).mean(), {}


@register_model("Typo")
@dataclass(frozen=True)
class Typo(Right):
    def optimizer(self, total_steps):
        return optax.adam(learning_rte=3)


@register_model("NotCalled")  # a function, not an optimizer
@dataclass(frozen=True)
class NotCalled(Right):
    def optimizer(self, total_steps):
        return optax.adam


@register_model("PythonIf")  # on a traced value
@dataclass(frozen=True)
class PythonIf(Right):
    def score(self, outputs, batch):
        scale = 2.0 if jnp.abs(outputs).max() > 1 else 1.0
        return weighted(scale * (outputs[:, 0] - batch["labels"]) ** 2, batch["mask"]), {}


@register_model("WrongKey")
@dataclass(frozen=True)
class WrongKey(Right):
    def score(self, outputs, batch):
        return weighted((outputs[:, 0] - batch["label"]) ** 2, batch["mask"]), {}


@register_model("Plateau")  # its update wants the loss as `value`
@dataclass(frozen=True)
class Plateau(Right):
    def optimizer(self, total_steps):
        return optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau())
