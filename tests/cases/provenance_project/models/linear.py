"""A small model whose files the tests of provenance edit, in copies."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from aetheria import LossOutput, Model, register_model, weighted

from .parts import output


@register_model("Linear")
@dataclass(frozen=True)
class Linear(Model):
    # The hyperparameters.
    width: int = 4
    scale: float = 1.0
    shape: tuple = (2, 2)
    learning_rate: float = 0.1
    activation: Callable = jnp.tanh

    def init(self, rng, example_batch):
        first = (example_batch["inputs"].shape[-1], self.width)
        return {"first": jax.random.normal(rng, first), "last": jnp.ones(self.width)}, {}

    def predict(self, params, model_state, inputs):
        hidden = self.activation(inputs @ params["first"])
        return self.scale * output(hidden, params["last"])

    def loss(self, params, model_state, batch, rng, train):
        outputs = self.predict(params, model_state, batch["inputs"])
        loss = weighted((outputs - batch["labels"]) ** 2, batch["mask"])
        return LossOutput(loss.total, loss.weight, {}, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(self.learning_rate)


@register_model("MadeLinear")
def make_linear(width: int = 4) -> Linear:
    return Linear(width=width)
