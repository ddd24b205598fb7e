"""Loss and gradient stay finite; what the step writes does not."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from aetheria.models.mlp import SimpleMLP

from aetheria import LossOutput, Model, register_model, weighted
from aetheria.model.optimizers import SGD, Optimizer


@register_model("SoundLinear")
@dataclass(frozen=True)
class Linear(Model):
    def init(self, rng, example_batch):
        size = example_batch["inputs"].shape[-1]
        return {"w": jax.random.normal(rng, (size,)) * 0.1}, {"mean": jnp.zeros(size)}

    def predict(self, params, model_state, inputs):
        return inputs @ params["w"]

    def loss(self, params, model_state, batch, rng, train):
        error = self.predict(params, model_state, batch["inputs"]) - batch["labels"].reshape(-1)
        return LossOutput(
            *weighted(error**2, batch["mask"]), {}, self.next_state(model_state, batch)
        )

    def next_state(self, model_state, batch):
        return model_state

    def optimizer(self, total_steps):
        return optax.sgd(1e-2)


@register_model("BadUpdate")  # the 7th update is not a number
@dataclass(frozen=True)
class BadUpdate(Linear):
    def optimizer(self, total_steps):
        schedule = lambda step: jnp.where(step == 6, jnp.nan, 1e-2)
        return optax.sgd(schedule)


@register_model("BadState")  # a running mean overflows by the square of one large input
@dataclass(frozen=True)
class BadState(Linear):
    def next_state(self, model_state, batch):
        square = (batch["inputs"] * 1e20) ** 2
        return {"mean": 0.9 * model_state["mean"] + 0.1 * square.mean(0)}


@register_model("HalfState")  # a mean of squares overflows float16 where loss and inputs do not
@dataclass(frozen=True)
class HalfState(Linear):
    def next_state(self, model_state, batch):
        square = (batch["inputs"] ** 2).mean(0).astype(jnp.float32)
        return {"mean": 0.9 * model_state["mean"] + 0.1 * square}


@register_model("BadRate")  # with a PyTorch counterpart; the 7th learning rate is not a number
@dataclass(frozen=True)
class BadRate(SimpleMLP):
    def optimizer(self, total_steps):
        return Optimizer(SGD(), lambda step: jnp.where(step == 6, jnp.nan, 1e-2))
