"""One mistake each, beside a model without any."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from flax import linen as nn

from aetheria import LinenModel, register_model, weighted


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(1)(nn.relu(nn.Dense(16)(x)))


@register_model("Right")
@dataclass(frozen=True)
class Right(LinenModel):
    def network(self):
        return Net()

    def score(self, outputs, batch):
        return weighted((outputs[:, 0] - batch["labels"]) ** 2, batch["mask"]), {}

    def optimizer(self, total_steps):
        return optax.adam(1e-3)


@register_model("Broadcasts")  # [batch, 1] - [batch]: a square
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


@register_model("Item")  # a number of a traced value
@dataclass(frozen=True)
class Item(Right):
    def score(self, outputs, batch):
        return weighted(outputs[:, 0] * outputs.max().item(), batch["mask"]), {}


@register_model("Shapes")  # do not fit
@dataclass(frozen=True)
class Shapes(Right):
    def score(self, outputs, batch):
        return weighted(outputs @ outputs, batch["mask"]), {}


class Deep(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return self.head(x)

    def head(self, x):
        return nn.Dense(1)(x).reshape(3, 7)


@register_model("DeepShapes")  # inside the network
@dataclass(frozen=True)
class DeepShapes(Right):
    def network(self):
        return Deep()


@register_model("Recursion")
@dataclass(frozen=True)
class Recursion(Right):
    def network(self):
        return self.network()


class NoTrain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)


@register_model("NoTrainArgument")  # fails in Flax, outside of any file of the user's
@dataclass(frozen=True)
class NoTrainArgument(Right):
    def network(self):
        return NoTrain()


@register_model("NotMade")  # the class of a network
@dataclass(frozen=True)
class NotMade(Right):
    def network(self):
        return Net


@register_model("FewArguments")
@dataclass(frozen=True)
class FewArguments(Right):
    def score(self, outputs):
        return weighted(outputs[:, 0], 1.0), {}


@register_model("BareMetric")
@dataclass(frozen=True)
class BareMetric(Right):
    def score(self, outputs, batch):
        error = outputs[:, 0] - batch["labels"]
        return weighted(error**2, batch["mask"]), {"mae": jnp.abs(error).mean()}


@register_model("ScalarValues")
@dataclass(frozen=True)
class ScalarValues(Right):
    def score(self, outputs, batch):
        return weighted(((outputs[:, 0] - batch["labels"]) ** 2).mean(), batch["mask"]), {}
