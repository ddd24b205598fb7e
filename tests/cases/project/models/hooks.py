"""Models of plain JAX, each with a hook that returns the wrong kind."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from aetheria import LossOutput, Model, register_model, weighted


@register_model("Plain")
@dataclass(frozen=True)
class Plain(Model):
    def init(self, rng, example_batch):
        return {"w": jax.random.normal(rng, (10,))}, {"mean": jnp.zeros(10)}

    def predict(self, params, model_state, inputs):
        return inputs @ params["w"]

    def loss(self, params, model_state, batch, rng, train):
        error = self.predict(params, model_state, batch["inputs"]) - batch["labels"]
        return LossOutput(*weighted(error**2, batch["mask"]), {}, self.next_state(model_state))

    def next_state(self, model_state):
        return model_state

    def optimizer(self, total_steps):
        return optax.sgd(1e-2)


@register_model("InitOne")
@dataclass(frozen=True)
class InitOne(Plain):
    def init(self, rng, example_batch):
        return {"w": jax.random.normal(rng, (10,))}


@register_model("LossNumber")
@dataclass(frozen=True)
class LossNumber(Plain):
    def loss(self, params, model_state, batch, rng, train):
        return super().loss(params, model_state, batch, rng, train).total


@register_model("LossVector")
@dataclass(frozen=True)
class LossVector(Plain):
    def loss(self, params, model_state, batch, rng, train):
        return LossOutput(batch["mask"], batch["mask"].sum(), {}, model_state)


@register_model("MetricList")
@dataclass(frozen=True)
class MetricList(Plain):
    def loss(self, params, model_state, batch, rng, train):
        return super().loss(params, model_state, batch, rng, train)._replace(metrics=["mae"])


@register_model("StateGrows")
@dataclass(frozen=True)
class StateGrows(Plain):
    def next_state(self, model_state):
        return {**model_state, "count": jnp.zeros(())}


@register_model("NoOptimizer")
@dataclass(frozen=True)
class NoOptimizer(Plain):
    def optimizer(self, total_steps):
        optax.sgd(1e-2)
