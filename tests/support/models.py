"""Small models that several tests train: one with every kind of state, and one with none."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from flax import linen as nn

from aetheria import LinenModel, LossOutput, Model, weighted

NUM_FEATURES = 6


def squared_error(outputs, batch):
    error = outputs - batch["labels"]
    return weighted(error**2, batch["mask"]), {"mae": weighted(abs(error), batch["mask"])}


class NormedLayers(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        # No bias before the normalization: its gradient would be rounding noise alone.
        x = nn.Dense(16, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8)(x)
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        return nn.Dense(1)(x)


@dataclass(frozen=True)
class LinenNormed(LinenModel):
    learning_rate: float = 1e-2

    def network(self):
        return NormedLayers()

    def score(self, outputs, batch):
        return squared_error(outputs, batch)

    def optimizer(self, total_steps):
        return optax.adam(self.learning_rate)


@dataclass(frozen=True)
class PlainLinear(Model):
    """No library: a matrix product, and weak types on purpose in its first parameters."""

    learning_rate: float = 0.05

    def init(self, rng, example_batch):
        dim = example_batch["inputs"].shape[1]
        return {"w": jnp.full((dim, 1), 0.1), "b": jnp.zeros(1)}, {}

    def loss(self, params, model_state, batch, rng, train):
        loss, metrics = squared_error(self.predict(params, model_state, batch["inputs"]), batch)
        return LossOutput(*loss, metrics, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(self.learning_rate)

    def predict(self, params, model_state, inputs):
        return inputs @ params["w"] + params["b"]
