"""Models whose state holds what few do; `kind` says what."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from aetheria import LossOutput, Model, register_model, weighted
from aetheria.model.averaging import with_average

ODD_PARAMS = {
    "plain": lambda w: {"w": w},
    "bare": lambda w: w,
    "empty_leaf": lambda w: {"w": w, "none": jnp.zeros((0, 3))},
    "complex": lambda w: {"w": w, "c": jnp.full((2,), 1 + 2j, jnp.complex64)},
    "whole": lambda w: {"w": w, "count": jnp.zeros((), jnp.int32)},
    "truth": lambda w: {"w": w, "flag": jnp.zeros((), bool)},
    "slash": lambda w: {"w": w, "a/b": jnp.zeros(2), "a": {"b": jnp.zeros(2)}},
    "dot": lambda w: {"w": w, "a.b": jnp.zeros(2), "a": {"b": jnp.zeros(2)}},
    "inner": lambda w: {"w": w, "a": jnp.zeros(2), "a/b": jnp.zeros(2)},
    "parent": lambda w: {"w": w, "..": jnp.zeros(2)},
    "nameless": lambda w: {"w": w, "": jnp.zeros(2)},
    "many": lambda w: {"w": w, **{f"v{i}": jnp.full(3, 0.1) for i in range(100)}},
}


@register_model("OddState")
@dataclass(frozen=True)
class OddState(Model):
    kind: str = "plain"
    state: str = "none"
    ema_decay: float = 0.0

    def init(self, rng, example_batch):
        w = jax.random.normal(rng, example_batch["inputs"].shape[-1:]) * 0.1
        model_state = {
            "none": {},
            "key": {"key": jax.random.key(7)},
            "rbg_key": {"key": jax.random.key(7, impl="rbg")},
            "complex": {"mean": jnp.zeros((), jnp.complex64)},
            "empty": {"nothing": jnp.zeros((3, 0), jnp.int32)},
        }[self.state]
        return ODD_PARAMS[self.kind](w), model_state

    def predict(self, params, model_state, inputs):
        w = params if self.kind == "bare" else params["w"]
        extra = 0.0
        if self.kind == "complex":
            extra = jnp.abs(params["c"]).sum() * 0.01
        if self.kind == "many":
            extra = sum(leaf.sum() for name, leaf in params.items() if name != "w") * 1e-3
        if "key" in self.state:
            extra = extra + jax.random.normal(model_state["key"]) * 0.01
        return inputs @ w + extra

    def loss(self, params, model_state, batch, rng, train):
        error = self.predict(params, model_state, batch["inputs"]) - batch["labels"].reshape(-1)
        if self.state == "complex" and train:
            weights = batch["mask"] / batch["mask"].sum()
            mean = (batch["inputs"][:, 0] + 1j * batch["inputs"][:, 1]) @ weights
            model_state = {"mean": mean.astype(jnp.complex64)}
        return LossOutput(*weighted(error**2, batch["mask"]), {}, model_state)

    def optimizer(self, total_steps):
        return with_average(self.ema_decay, optax.adam(1e-2))


@register_model("Contrastive")
@dataclass(frozen=True)
class Contrastive(OddState):
    """Its loss compares every example of a batch with every other."""

    decomposes: ClassVar[bool] = False

    def loss(self, params, model_state, batch, rng, train):
        scores = self.predict(params, model_state, batch["inputs"])
        mask = batch["mask"]
        pairs = jnp.square(scores[:, None] - scores[None, :]) * mask[:, None] * mask[None, :]
        nearness = pairs.sum(1) / jnp.maximum(mask.sum(), 1)
        return LossOutput(*weighted(nearness, mask), {}, model_state)


@register_model("SaysItDecomposes")
@dataclass(frozen=True)
class SaysItDecomposes(Contrastive):
    decomposes: ClassVar[bool] = True
