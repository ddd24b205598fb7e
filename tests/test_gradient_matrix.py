"""The same gradient on any devices, however it is accumulated, whatever the weights: to 1e-6."""

import functools
from dataclasses import dataclass

import jax
import numpy as np
import optax
import pytest
from support.models import PlainLinear
from support.programs import make_spec

from aetheria import LossOutput, weighted
from aetheria.hardware.jax.strategy import select_strategy

BATCH, FEATURES = 32, 6


@dataclass(frozen=True)
class WeightedLinear(PlainLinear):
    """Squares weighted example by example; keeps the last gradient in the optimizer's state."""

    mean_of_means: bool = False

    def loss(self, params, model_state, batch, rng, train):
        error = self.predict(params, model_state, batch["inputs"]) - batch["labels"]
        total, weight = weighted(error**2, batch["weight"])
        if self.mean_of_means:  # what others do: each micro-batch divided by its own weight
            total, weight = total / jax.numpy.maximum(weight, 1e-9), jax.numpy.ones(())
        return LossOutput(total, weight, {}, model_state)

    def optimizer(self, total_steps):
        return optax.chain(optax.trace(decay=0.0), optax.scale(0.0))


def make_batch(kind):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(BATCH, FEATURES)).astype(np.float32)
    weight = {
        "even": np.ones(BATCH),
        "ragged": rng.uniform(0, 5, BATCH) * (rng.random(BATCH) < 0.7),
        "one micro-batch empty": np.where(np.arange(BATCH) // 8 == 2, 0, rng.random(BATCH)),
    }[kind]
    labels = inputs[:, :1] * 2 + rng.normal(size=(BATCH, 1))
    return {
        "inputs": inputs,
        "labels": labels.astype(np.float32),
        "weight": weight.astype(np.float32),
        "mask": np.ones(BATCH, np.float32),
    }


@functools.cache
def gradient(devices, accumulation, kind, mean_of_means=False):
    lead = (accumulation, BATCH // accumulation)
    global_batch = {name: a.reshape(lead + a.shape[1:]) for name, a in make_batch(kind).items()}
    spec = make_spec(global_batch)
    strategy = select_strategy("mesh", {"data": devices})
    program = strategy.compile(WeightedLinear(mean_of_means=mean_of_means), spec)
    chunk = {name: column[None] for name, column in global_batch.items()}
    state, _ = program.train_steps(program.init(), chunk, 0, 1)
    arrays = program.export_state(state)
    leaves = [np.asarray(a).ravel() for path, a in arrays.items() if path.startswith("opt_state")]
    return np.concatenate(leaves).astype(np.float64)


def in_float64(kind):
    """The gradient by hand: of sum(w (x k + b - y)^2) / sum(w), at the initial parameters."""
    batch = {name: column.astype(np.float64) for name, column in make_batch(kind).items()}
    outputs = 0.1 * batch["inputs"].sum(axis=1, keepdims=True)  # PlainLinear's first parameters
    error = 2 * (outputs - batch["labels"]) * batch["weight"][:, None] / batch["weight"].sum()
    by_name = {"w": batch["inputs"].T @ error, "b": error.sum(axis=0)}
    return np.concatenate([by_name[name].ravel() for name in sorted(by_name)])


KINDS = ["even", "ragged", "one micro-batch empty"]


def relative(one, other):
    return np.abs(one - other).max() / np.abs(other).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_the_gradient_is_that_of_the_whole_batch(devices, accumulation, kind):
    assert relative(gradient(devices, accumulation, kind), gradient(1, 1, kind)) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_float64(kind):
    assert relative(gradient(1, 1, kind), in_float64(kind)) <= 1e-6


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_mean_of_means_is_another_gradient(kind):
    """The control: the known mistake is far outside the bound."""
    assert relative(gradient(1, 4, kind, mean_of_means=True), gradient(1, 1, kind)) > 1e-2
