"""A model of one layer and a model of one parameter, for tests of the pure step."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aetheria import LossOutput, Model, weighted

LEARNING_RATE = 0.1


@dataclass(frozen=True)
class TinyMLP(Model):
    """One tanh layer, weighted squared error, a running mean as state, and a draw as a metric."""

    make_optimizer: Callable[[], optax.GradientTransformation] = lambda: optax.sgd(LEARNING_RATE)

    def init(self, rng, example_batch):
        keys = jax.random.split(rng)
        params = {
            "w1": jax.random.normal(keys[0], (3, 5)),
            "b1": jnp.zeros(5),
            "w2": jax.random.normal(keys[1], (5, 2)),
            "b2": jnp.zeros(2),
        }
        return params, {"mean": jnp.zeros(3)}

    def loss(self, params, model_state, batch, rng, train):
        outputs = self.predict(params, model_state, batch["inputs"]).astype(jnp.float32)
        error = ((outputs - batch["labels"]) ** 2).sum(axis=1)
        draw = jax.random.uniform(rng, batch["mask"].shape)
        metrics = {"draw": weighted(draw, batch["mask"])}
        mean = 0.9 * model_state["mean"] + 0.1 * batch["inputs"].astype(jnp.float32).mean(axis=0)
        return LossOutput(*weighted(error, batch["mask"]), metrics, {"mean": mean})

    def optimizer(self, total_steps):
        return self.make_optimizer()

    def predict(self, params, model_state, inputs):
        return jnp.tanh(inputs @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


@dataclass(frozen=True)
class Scalar(Model):
    """One parameter w; the loss is a function of it and of each input."""

    function: Callable[[jax.Array, jax.Array], jax.Array]
    start: float = 1.0

    def init(self, rng, example_batch):
        return {"w": jnp.asarray(self.start, jnp.float32)}, {}

    def loss(self, params, model_state, batch, rng, train):
        values = self.function(params["w"], batch["inputs"])
        return LossOutput(*weighted(values, batch["mask"]), {}, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(LEARNING_RATE)

    def predict(self, params, model_state, inputs):
        return self.function(params["w"], inputs)


MODEL = TinyMLP()


MOMENTUM = TinyMLP(lambda: optax.adamw(0.1, weight_decay=0.1))


def make_window(mask, seed=0):
    """A window whose mask f32 [accumulation, micro_batch] is given."""
    mask = np.asarray(mask, np.float32)
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.normal(size=(*mask.shape, 3)).astype(np.float32),
        "labels": rng.normal(size=(*mask.shape, 2)).astype(np.float32),
        "mask": mask,
    }


def valid(*counts, micro_batch=8):
    """A mask whose micro-batches have that many valid examples."""
    return (np.arange(micro_batch) < np.asarray(counts)[:, None]).astype(np.float32)


def equal(one, other):
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), one, other)
    return jax.tree.all(same)


def learned(state):
    return state.params, state.model_state, state.opt_state


def equations(jaxpr):
    """Every equation of a jaxpr and of the ones inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
