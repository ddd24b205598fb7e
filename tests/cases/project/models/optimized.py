"""A line whose optimizer is one of many, by name."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from aetheria import LossOutput, Model, clip, register_model, weighted, with_average


def strict(name):
    """A transformation that takes one extra argument and no others."""

    def with_value(updates, state, params=None, *, value):
        return jax.tree.map(lambda u: u * jnp.minimum(value, 1.0), updates), state

    def with_norm(updates, state, params=None, *, grad_norm):
        return jax.tree.map(lambda u: u / (1 + grad_norm), updates), state

    def with_other(updates, state, params=None, *, other):
        return updates, state

    update = {"value": with_value, "grad_norm": with_norm, "other": with_other}[name]
    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def failing():
    def update(updates, state, params=None):
        raise RuntimeError("on purpose")

    return optax.GradientTransformation(lambda params: (), update)


def growing():
    """Its state is another kind of tree after each update."""
    return optax.GradientTransformation(
        lambda params: {"count": jnp.zeros(())},
        lambda updates, state, params=None: (updates, {**state, "more": jnp.zeros(())}),
    )


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(1e-2),
    "adam": lambda: optax.adam(1e-2),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    "multi": lambda: optax.multi_transform({"a": optax.sgd(1e-2)}, lambda p: {"w": "a"}),
    "masked": lambda: optax.masked(optax.sgd(1e-2), {"w": True}),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "every": lambda: optax.MultiSteps(optax.sgd(1e-2), 2),
    "plateau": lambda: optax.chain(
        optax.sgd(1e-9), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.1)
    ),
    "polyak": lambda: optax.polyak_sgd(max_learning_rate=0.1),
    "transparent sam": lambda: optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-2), sync_period=2),
    "value alone": lambda: optax.chain(strict("value"), optax.sgd(1e-2)),
    "norm alone": lambda: optax.chain(strict("grad_norm"), optax.sgd(1e-2)),
    "clipped": lambda: clip(1e-3, optax.sgd(1.0)),
    "clipped plateau": lambda: clip(1.0, optax.chain(optax.sgd(1e-2), strict("value"))),
    "averaged": lambda: with_average(0.9, clip(1.0, optax.polyak_sgd())),
    "lbfgs": optax.lbfgs,
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=3)
    ),
    "sam": lambda: optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-2), opaque_mode=True),
    "other": lambda: optax.chain(optax.sgd(1e-2), strict("other")),
    "two strict": lambda: optax.chain(strict("value"), strict("grad_norm")),
    "lookahead": lambda: optax.lookahead(optax.sgd(1e-2), 5, 0.5),
    "growing": growing,
    "failing": failing,
}


@register_model("Optimized")
@dataclass(frozen=True)
class Optimized(Model):
    name: str = "sgd"

    def init(self, rng, example_batch):
        return {"w": jnp.zeros(example_batch["inputs"].shape[-1])}, {}

    def predict(self, params, model_state, inputs):
        return inputs @ params["w"]

    def loss(self, params, model_state, batch, rng, train):
        error = self.predict(params, model_state, batch["inputs"]) - batch["labels"]
        return LossOutput(*weighted(error**2, batch["mask"]), {}, model_state)

    def optimizer(self, total_steps):
        return OPTIMIZERS[self.name]()
