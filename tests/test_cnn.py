"""The convolutional classifier: its pooling, its layers against NumPy, and its batch statistics."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aetheria.models.cnn import max_pool
from flax import linen as nn

from aetheria.errors import AetheriaError
from aetheria.plugins import MODELS
from aetheria.plugins.arguments import call_with

pytestmark = pytest.mark.convolutional

SimpleCNN = MODELS.get("SimpleCNN")
KEY = jax.random.key(7)
SMALL = SimpleCNN(conv_dims=(3, 4), hidden_dim=8, num_classes=3)
NORMED = dataclasses.replace(SMALL, batch_norm=True)


def make_batch(size=4, side=8, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.random((size, side, side, channels), np.float32),
        "labels": rng.integers(3, size=size, dtype=np.int32),
        "mask": np.ones(size, np.float32),
    }


@functools.cache
def make_state(model, side=8):
    return jax.jit(model.init)(KEY, make_batch(side=side))


# Compiled once for all tests of a model.
predict = jax.jit(lambda model, *args: model.predict(*args), static_argnums=0)
loss_of = jax.jit(lambda model, *args: model.loss(*args), static_argnums=(0, 5))


# Pooling


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 4, 6, 1), (2, 7, 8, 3), (2, 8, 7, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pooling_gives_the_values_of_flax(shape, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    want = nn.max_pool(x, (2, 2), (2, 2))
    assert np.array_equal(max_pool(x), want)
    assert not np.array_equal(max_pool(-x), want)


def test_pooling_gives_the_gradients_of_flax_where_no_two_values_tie():
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * 4 * 4 * 3).reshape(2, 4, 4, 3), float)
    weights = jnp.arange(2 * 2 * 2 * 3.0).reshape(2, 2, 2, 3)
    gradient = lambda pool: jax.grad(lambda x: (pool(x) * weights).sum())(x)
    want = gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    assert np.array_equal(gradient(max_pool), want)


def test_even_sizes_are_pooled_without_a_window_operation():
    program = lambda side: str(jax.make_jaxpr(max_pool)(jnp.zeros((1, side, side, 1))))
    assert "reduce_window" not in program(8)
    assert "reduce_window" in program(7)


# The network


def numpy_conv(x, kernel, bias):
    """A sum over the 25 places of the kernel: x [batch, height, width, channel], zeros around."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = ((i, j) for i in range(5) for j in range(5))
    terms = (padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in places)
    return sum(terms) + bias


def numpy_logits(params, x):
    params, x = jax.tree.map(np.float64, (params, x))
    for name in ("Conv_0", "Conv_1"):
        x = np.maximum(numpy_conv(x, **params[name]), 0)
        corners = [x[:, i::2, j::2] for i in range(2) for j in range(2)]
        x = functools.reduce(np.maximum, corners)
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    return x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def test_logits_are_those_of_numpy_in_float64():
    batch, (params, state) = make_batch(), make_state(SMALL)
    params = jax.tree.map(lambda p: p + 0.05, params)  # or biases of zero would hide
    have = predict(SMALL, params, state, batch["inputs"])
    np.testing.assert_allclose(have, numpy_logits(params, batch["inputs"]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(have, numpy_logits(params, batch["inputs"][:, ::-1]), rtol=1e-4)


def test_odd_sizes_have_a_network_too():
    batch = make_batch(side=7)
    params, state = make_state(SMALL, side=7)
    assert predict(SMALL, params, state, batch["inputs"]).shape == (4, 3)
    assert params["Dense_0"]["kernel"].shape == (1 * 1 * 4, 8)


@pytest.mark.parametrize("model", [SMALL, NORMED], ids=["plain", "batch_norm"])
def test_evaluation_of_an_example_is_the_same_alone_and_among_others(model):
    batch, state = make_batch(), make_state(model)
    all_or_none = predict(model, *state, batch["inputs"])
    alone = predict(model, *state, batch["inputs"][:1])
    np.testing.assert_allclose(all_or_none[:1], alone, rtol=1e-5, atol=1e-6)


def test_batch_norm_trains_on_the_statistics_of_the_batch():
    batch, (params, state) = make_batch(), make_state(NORMED)
    kernel = np.float64(params["Conv_0"]["kernel"])
    hidden = numpy_conv(np.float64(batch["inputs"]), kernel, 0.0)
    trained = loss_of(NORMED, params, state, batch, KEY, True).model_state["batch_stats"]
    statistics = trained["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.01 * hidden.mean((0, 1, 2)), rtol=1e-4)
    want = 0.99 + 0.01 * hidden.var((0, 1, 2))
    np.testing.assert_allclose(statistics["var"], want, rtol=1e-4)
    evaluated = loss_of(NORMED, params, state, batch, KEY, False).model_state["batch_stats"]
    assert np.array_equal(evaluated["BatchNorm_0"]["mean"], np.zeros(3))


def test_without_batch_norm_there_is_no_model_state():
    assert make_state(SMALL)[1] == {} and make_state(NORMED)[1] != {}


# Mistakes


@pytest.mark.parametrize("shape", [(2, 64), (2, 8, 8), (2, 3, 8, 1)])
def test_inputs_that_are_no_images_are_one_line(shape):
    with pytest.raises(
        AetheriaError, match="expected inputs \\[height, width, channel\\]"
    ) as caught:
        SMALL.init(KEY, {"inputs": np.zeros(shape, np.float32)})
    assert str(list(shape[1:])) in str(caught.value) and "\n" not in str(caught.value)


def test_widths_may_be_a_list_as_files_write_it():
    model = call_with(SimpleCNN, "model_params", {"conv_dims": [8, 16]})
    assert model.conv_dims == (8, 16) and hash(model)
