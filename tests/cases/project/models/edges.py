"""The edges of the model contract: several inputs, RNG streams of any name."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from aetheria import LinenModel, LossOutput, Model, register_model, weighted


class Both(nn.Module):
    @nn.compact
    def __call__(self, inputs, train):
        assert set(inputs) == {"wide", "deep"} and set(inputs["deep"]) == {"code", "size"}
        code = nn.Embed(4, 3)(inputs["deep"]["code"])
        parts = [inputs["wide"], code, inputs["deep"]["size"][:, None]]
        return nn.Dense(1)(jnp.concatenate(parts, axis=-1))[:, 0]


@register_model("SeveralInputs")
@dataclass(frozen=True)
class SeveralInputs(LinenModel):
    def network(self):
        return Both()

    def score(self, outputs, batch):
        return weighted((outputs - batch["labels"]) ** 2, batch["mask"]), {}

    def optimizer(self, total_steps):
        return optax.adam(1e-2)


@register_model("SeveralPlain")  # the same columns without a library's network
@dataclass(frozen=True)
class SeveralPlain(Model):
    def init(self, rng, example_batch):
        return {"w": jnp.zeros(example_batch["inputs"]["wide"].shape[-1])}, {}

    def predict(self, params, model_state, inputs):
        return inputs["wide"] @ params["w"] + inputs["deep"]["size"]

    def loss(self, params, model_state, batch, rng, train):
        error = self.predict(params, model_state, batch["inputs"]) - batch["labels"]
        return LossOutput(*weighted(error**2, batch["mask"]), {}, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(1e-2)


class Noisy(nn.Module):
    """In training it draws from two streams of its own; `stray`: in a prediction, too."""

    stray: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8)(x)
        if train or self.stray:
            x = x + jax.random.normal(self.make_rng("noise"), x.shape)
            x = x * jax.random.bernoulli(self.make_rng("gate"), 0.9, x.shape)
        return nn.Dense(1)(nn.Dropout(0.1, deterministic=not train)(x))[:, 0]


@register_model("Noise")
@dataclass(frozen=True)
class Noise(SeveralInputs):
    stray: bool = False

    def network(self):
        return Noisy(self.stray)


@register_model("FewOutputs")  # one output for the whole batch
@dataclass(frozen=True)
class FewOutputs(SeveralPlain):
    def predict(self, params, model_state, inputs):
        return super().predict(params, model_state, inputs).mean()


@register_model("PredictRaises")
@dataclass(frozen=True)
class PredictRaises(SeveralPlain):
    def loss(self, params, model_state, batch, rng, train):
        error = batch["inputs"]["wide"] @ params["w"] - batch["labels"]
        return LossOutput(*weighted(error**2, batch["mask"]), {}, model_state)

    def predict(self, params, model_state, inputs):
        return inputs["deep"]["code"] @ params["w"][:, None]
