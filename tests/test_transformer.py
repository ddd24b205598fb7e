"""The language model: its mathematics against NumPy, what it may see, and how it scales."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.long import covering, long_or

from aetheria.build import build_model
from aetheria.config import make_config
from aetheria.errors import AetheriaError
from aetheria.model.precision import Precision
from aetheria.plugins import MODELS
from aetheria.plugins.arguments import call_with

Transformer = MODELS.get("Transformer")
KEY = jax.random.key(7)
SMALL = Transformer(vocab_size=32, num_layers=2, width=16, num_heads=2, max_length=8)
UNTIED = dataclasses.replace(SMALL, tied_embeddings=False)
LARGE = Transformer(
    vocab_size=50304, num_layers=24, width=2048, num_heads=16, max_length=2048, remat="dots"
)


def make_batch(model=SMALL, size=4, seed=0):
    shape = (size, model.max_length + 1)
    tokens = np.random.default_rng(seed).integers(model.vocab_size, size=shape, dtype=np.int32)
    return {"inputs": tokens[:, :-1], "labels": tokens[:, 1:], "mask": np.ones(size, np.float32)}


def make_params(model=SMALL):
    """Parameters that none of the zeros and ones of an initialization can hide behind."""
    rng = np.random.default_rng(1)
    noise = lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32)
    return jax.tree.map(noise, initial_params(model))


@functools.cache
def initial_params(model):
    return jax.jit(model.init)(KEY, make_batch(model))[0]


def predict(params, inputs, model=SMALL):
    return np.asarray(compiled_predict(model)(params, {}, inputs))


@functools.cache
def compiled_predict(model):
    return jax.jit(model.predict)


def path_of(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def loss_of(model, params, batch, train=False):
    return model.loss(params, {}, batch, jax.random.key(3), train).total


# The mathematics


def numpy_norm(x, layer):
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / scale * layer["scale"] + layer["bias"]


def numpy_softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def numpy_attention(x, layer, num_heads):
    """One example, one head after the other: x [length, width]."""
    q, k, v = np.einsum("tw,wcd->ctd", x, layer["qkv"]["kernel"]) + layer["qkv"]["bias"][:, None]
    dim = x.shape[1] // num_heads
    past = np.tril(np.ones((len(x), len(x)), bool))
    outputs = []
    for head in range(num_heads):
        part = slice(head * dim, (head + 1) * dim)
        scores = np.where(past, q[:, part] @ k[:, part].T / np.sqrt(dim), -np.inf)
        outputs.append(numpy_softmax(scores) @ v[:, part])
    return np.concatenate(outputs, -1) @ layer["out"]["kernel"] + layer["out"]["bias"]


def numpy_mlp(x, layer):
    x = x @ layer["in"]["kernel"] + layer["in"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ layer["out"]["kernel"] + layer["out"]["bias"]


def numpy_logits(params, tokens, num_heads):
    """The network in float64 for one example: tokens [length] -> [length, vocab_size]."""
    params = jax.tree.map(np.float64, params)
    x = params["tokens"]["embedding"][tokens] + params["positions"]["embedding"][: len(tokens)]
    for index in range(len(params["blocks"]["mlp_norm"]["scale"])):
        block = jax.tree.map(lambda stacked, i=index: stacked[i], params["blocks"])
        x = x + numpy_attention(
            numpy_norm(x, block["attention_norm"]), block["attention"], num_heads
        )
        x = x + numpy_mlp(numpy_norm(x, block["mlp_norm"]), block["mlp"])
    x = numpy_norm(x, params["norm"])
    return x @ (params["head"]["kernel"] if "head" in params else params["tokens"]["embedding"].T)


@pytest.mark.parametrize("model", covering({"tied": SMALL, "untied": UNTIED}, default=["untied"]))
def test_logits_are_those_of_numpy_in_float64(model):
    params, batch = make_params(model), make_batch(model)
    have = predict(params, batch["inputs"], model)
    want = [numpy_logits(params, tokens, model.num_heads) for tokens in batch["inputs"]]
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    # The control: with one head instead of two the numbers are others.
    other = [numpy_logits(params, tokens, 1) for tokens in batch["inputs"]]
    assert not np.allclose(have, other, rtol=1e-4, atol=1e-5)


def test_loss_is_the_sum_of_the_cross_entropies_of_unmasked_tokens():
    params, batch = make_params(), make_batch()
    batch["mask"] = np.array([1, 0, 1, 0], np.float32)
    logits = np.float64(predict(params, batch["inputs"]))
    right = np.take_along_axis(numpy_softmax(logits), batch["labels"][..., None], -1)[..., 0]
    hits = logits.argmax(-1) == batch["labels"]
    out = jax.jit(SMALL.loss, static_argnums=4)(params, {}, batch, KEY, False)
    np.testing.assert_allclose(out.total, -np.log(right[[0, 2]]).sum(), rtol=1e-5)
    assert float(out.weight) == 2 * SMALL.max_length
    accuracy = out.metrics["accuracy"]
    assert [float(v) for v in accuracy] == [hits[[0, 2]].sum(), 2 * SMALL.max_length]


def test_probabilities_of_the_next_token_sum_to_one():
    logits = predict(make_params(), make_batch()["inputs"])
    np.testing.assert_allclose(SMALL.probabilities(logits).sum(-1), 1, rtol=1e-6)


# What it sees


def test_a_token_changes_no_earlier_logits():
    params, inputs = make_params(), make_batch()["inputs"]
    changed = inputs.copy()
    changed[:, 5] = (changed[:, 5] + 1) % SMALL.vocab_size
    before, after = (predict(params, i) for i in (inputs, changed))
    assert np.array_equal(before[:, :5], after[:, :5])
    # The control: it changes its own logits and every later one.
    assert (np.abs(before - after)[:, 5:].max(-1) > 1e-4).all()


def test_a_token_changes_no_other_example():
    params, inputs = make_params(), make_batch()["inputs"]
    changed = inputs.copy()
    changed[0] = (changed[0] + 1) % SMALL.vocab_size
    before, after = (predict(params, i) for i in (inputs, changed))
    assert np.array_equal(before[1:], after[1:]) and not np.array_equal(before[0], after[0])


def test_the_place_of_a_token_counts():
    params, constant = make_params(), np.full((1, SMALL.max_length), 3, np.int32)
    logits = predict(params, constant)
    assert not np.allclose(logits[:, 0], logits[:, 1], atol=1e-4)
    # The control: without positions a row of equal tokens has equal logits.
    params["positions"]["embedding"] *= 0
    logits = predict(params, constant)
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:, :1], logits.shape), atol=1e-5)


def test_shorter_inputs_see_the_first_positions():
    params, inputs = make_params(), make_batch()["inputs"]
    whole, part = (predict(params, inputs[:, :n]) for n in (8, 5))
    np.testing.assert_allclose(part, whole[:, :5], rtol=1e-5, atol=1e-6)


# Precision, rematerialization


def test_logits_are_float32_beyond_bfloat16_in_mixed_precision():
    params, inputs = make_params(), make_batch()["inputs"]
    low = Precision.parse(True).cast_params(params)
    logits = predict(low, inputs)
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, logits.astype(jnp.bfloat16).astype(np.float32))
    np.testing.assert_allclose(logits, predict(params, inputs), atol=0.2)


def gradient_program(model, params, batch):
    return jax.jit(jax.value_and_grad(lambda p: loss_of(model, p, batch, train=True))).lower(params)


def test_remat_is_a_key_of_the_config_too():
    config = make_config({"model_name": "Transformer", "remat": "dots"}, "test")
    assert build_model(config, None).remat == "dots"
    without = make_config({"model_name": "SimpleMLP", "remat": "dots"}, "test")
    with pytest.raises(AetheriaError, match=r"remat: expected a model with a hyperparameter remat"):
        build_model(without, None)


@pytest.mark.uncached
def test_remat_changes_memory_and_no_value():
    wide = dataclasses.replace(SMALL, num_layers=5, dropout=0.1, max_length=64)
    params, batch = make_params(wide), make_batch(wide)
    values, bytes_used = {}, {}
    policies = ("none", "dots", "full") if long_or(0, 1) else ("none", "full")
    for remat in policies:
        model = dataclasses.replace(wide, remat=remat)
        program = gradient_program(model, params, batch).compile()
        values[remat] = program(params)
        bytes_used[remat] = program.memory_analysis().temp_size_in_bytes
    for remat in policies[1:]:
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        jax.tree.map(close, values[remat], values["none"])
    sizes = list(bytes_used.values())
    assert sizes == sorted({*sizes}, reverse=True), bytes_used


# Optimization


def moved_by_decay(model):
    """The paths that change under gradients of zero."""
    params = make_params(model)
    optimizer = model.optimizer(total_steps=10)
    zeros, state = jax.tree.map(jnp.zeros_like, params), optimizer.init(params)
    stepped = params
    for _ in range(2):  # the warm-up begins at 0
        updates, state = jax.jit(optimizer.update)(zeros, state, stepped)
        stepped = jax.tree.map(jnp.add, stepped, updates)
    leaves = zip(jax.tree.leaves_with_path(params), jax.tree.leaves(stepped), strict=True)
    return {path_of(path) for (path, old), new in leaves if not np.array_equal(old, new)}


def test_weight_decay_moves_matrices_alone():
    assert moved_by_decay(UNTIED) == {
        "tokens/embedding",
        "positions/embedding",
        "blocks/attention/qkv/kernel",
        "blocks/attention/out/kernel",
        "blocks/mlp/in/kernel",
        "blocks/mlp/out/kernel",
        "head/kernel",
    }
    assert moved_by_decay(dataclasses.replace(UNTIED, weight_decay=0.0)) == set()


# Scale


def test_the_large_config_has_1_3_billion_parameters():
    tokens = jax.ShapeDtypeStruct((1, LARGE.max_length), jnp.int32)
    params, _ = jax.eval_shape(LARGE.init, KEY, {"inputs": tokens})
    width, layers = LARGE.width, LARGE.num_layers
    embeddings = (LARGE.vocab_size + LARGE.max_length) * width
    want = embeddings + layers * (12 * width**2 + 13 * width) + 2 * width
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == want == 1_315_819_520
    blocks = jax.tree.leaves(params["blocks"])
    assert {leaf.shape[0] for leaf in blocks} == {layers}


def program_lines(**changes):
    model = dataclasses.replace(SMALL, **changes)
    params, _ = jax.eval_shape(model.init, KEY, make_batch())
    text = gradient_program(model, params, make_batch()).as_text()
    return len(text.splitlines())


def test_many_layers_are_no_more_program():
    assert program_lines(num_layers=6) == program_lines(num_layers=24) > 100


def test_few_layers_are_unrolled_where_nothing_is_rematerialized():
    assert program_lines(num_layers=2) < program_lines(num_layers=4)
    assert program_lines(num_layers=2, remat="full") == program_lines(num_layers=4, remat="full")


def test_unrolling_changes_no_value(monkeypatch):
    params, batch = make_params(), make_batch()
    unrolled = gradient_program(SMALL, params, batch).compile()(params)
    monkeypatch.setattr(sys.modules[Transformer.__module__], "_UNROLLED_LAYERS", 0)
    looped = gradient_program(SMALL, params, batch).compile()(params)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, unrolled, looped)


def test_layers_start_from_different_parameters():
    first, second = initial_params(SMALL)["blocks"]["attention"]["qkv"]["kernel"]
    assert not np.array_equal(first, second)


# Mistakes


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_heads": 3}, r"num_heads: expected a divisor of width \(128\), got 3"),
        ({"num_heads": 0}, "num_heads: expected a number above 0, got 0"),
        ({"num_layers": 0}, "num_layers: expected a number above 0, got 0"),
        ({"remat": "some"}, "remat: expected"),
    ],
)
def test_hyperparameters_that_do_not_fit_are_one_line(params, message):
    with pytest.raises(AetheriaError, match=message):
        call_with(Transformer, "model_params", params)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 9), np.int32), "max_length: expected at least 9"),
        (np.zeros((2, 8), np.float32), "expected inputs of whole numbers"),
        (np.zeros((2, 8, 1), np.int32), "expected inputs of whole numbers"),
    ],
)
def test_data_that_does_not_fit_is_one_line(inputs, message):
    with pytest.raises(AetheriaError, match=message):
        SMALL.init(KEY, {"inputs": inputs})
