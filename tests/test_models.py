"""One conformance suite every kind of model passes, and what the two adapters promise."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.long import covering
from support.models import NUM_FEATURES, LinenNormed, PlainLinear, squared_error
from support.programs import make_spec, train_step

from aetheria import NnxModel
from aetheria.errors import AetheriaError
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.plugins import MODELS

pytestmark = pytest.mark.convolutional

SimpleMLP = MODELS.get("SimpleMLP")
SimpleCNN = MODELS.get("SimpleCNN")
Transformer = MODELS.get("Transformer")
KEY = jax.random.key(7)


class NnxLayers(nnx.Module):
    """Layers in a list, so that paths have numbers, and two dropouts, so that streams differ."""

    def __init__(self, rngs, dropout):
        self.layers = nnx.List(
            [
                nnx.Linear(NUM_FEATURES, 16, use_bias=False, rngs=rngs),
                nnx.BatchNorm(16, momentum=0.8, rngs=rngs),
                nnx.Dropout(dropout, rngs=rngs),
                nnx.Dropout(dropout, rngs=rngs),
                nnx.Linear(16, 1, rngs=rngs),
            ]
        )

    def __call__(self, x):
        first, norm, *dropouts, last = self.layers
        x = nnx.relu(norm(first(x)))
        for dropout in dropouts:
            x = dropout(x)
        x = last(x)
        self.outputs = nnx.Intermediate(x)  # dies with the call
        return x


@dataclass(frozen=True)
class NnxNormed(NnxModel):
    dropout: float = 0.1
    learning_rate: float = 1e-2

    def network(self, rngs):
        return NnxLayers(rngs, self.dropout)

    def score(self, outputs, batch):
        return squared_error(outputs, batch)

    def optimizer(self, total_steps):
        return optax.adam(self.learning_rate)


REGRESSION = SimpleMLP(input_dim=NUM_FEATURES, hidden_dim=16, learning_rate=1e-2)
CLASSIFICATION = dataclasses.replace(REGRESSION, num_classes=3, num_layers=2, dropout=0.2)
TRANSFORMER = Transformer(
    vocab_size=16, num_layers=1, width=16, num_heads=2, max_length=6, learning_rate=1e-2
)
MODELS_BY_NAME = {
    "mlp_regression": REGRESSION,
    "mlp_classification": CLASSIFICATION,
    "cnn": SimpleCNN(conv_dims=(4, 8), hidden_dim=16, num_classes=3, learning_rate=1e-2),
    "cnn_batch_norm": SimpleCNN(
        conv_dims=(4,), hidden_dim=16, num_classes=3, batch_norm=True, learning_rate=1e-2
    ),
    "transformer": TRANSFORMER,
    "transformer_remat": dataclasses.replace(TRANSFORMER, remat="full", tied_embeddings=False),
    "linen_batch_norm": LinenNormed(),
    "nnx_batch_norm": NnxNormed(),
    "plain_jax": PlainLinear(),
}
# These differ from the others in what test_transformer and test_cnn look at by themselves.
LONG = ("mlp_regression", "cnn", "transformer_remat", "linen_batch_norm")
every_model = pytest.mark.parametrize(
    "model", covering(MODELS_BY_NAME, default=[n for n in MODELS_BY_NAME if n not in LONG])
)
every_normed = pytest.mark.parametrize("model", [LinenNormed(), NnxNormed()], ids=["linen", "nnx"])


def make_batch(model, size=8, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(model, Transformer):
        return make_counting(rng, size)
    inputs = rng.normal(size=(size, NUM_FEATURES)).astype(np.float32)
    score = inputs[:, :2].sum(axis=1)
    labels = score[:, None]
    if getattr(model, "num_classes", 0):
        labels = np.digitize(score, [-0.5, 0.5]).astype(np.int32)
    if isinstance(model, SimpleCNN):  # a pixel a feature, each 2 by 2 so that pooling keeps it
        inputs = inputs.reshape(size, 2, 3, 1).repeat(2, axis=1).repeat(2, axis=2)
    return {"inputs": inputs, "labels": labels, "mask": np.ones(size, np.float32)}


def make_counting(rng, size):
    """Sentences that count on from a random number."""
    tokens = (rng.integers(16, size=(size, 1)) + np.arange(7)).astype(np.int32) % 16
    return {"inputs": tokens[:, :-1], "labels": tokens[:, 1:], "mask": np.ones(size, np.float32)}


def make_window(model, steps=2, size=8, seed=0):
    batch = make_batch(model, steps * size, seed)
    return {name: a.reshape(steps, size, *a.shape[1:]) for name, a in batch.items()}


@functools.cache
def make_program(model, mixed_precision=False):
    spec = make_spec(make_window(model), total_steps=60, mixed_precision=mixed_precision)
    return select_strategy("cpu", {}).compile(model, spec)


# Compiled once for all tests of a model.
init = jax.jit(lambda model, *args: model.init(*args), static_argnums=0)
predict = jax.jit(lambda model, *args: model.predict(*args), static_argnums=0)
loss_of = jax.jit(lambda model, *args: model.loss(*args), static_argnums=(0, 5))


def trees_equal(one, other):
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), one, other)
    return jax.tree.all(same)


def floats(tree):
    leaves = jax.tree.leaves(tree)
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]


@every_model
def test_model_is_frozen_and_hashable(model):
    same = dataclasses.replace(model)
    assert same == model and hash(same) == hash(model)
    other = dataclasses.replace(model, learning_rate=0.5)
    assert other != model
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.learning_rate = 0.5


@every_model
def test_init_gives_float32_parameters_that_the_key_decides(model):
    params, model_state = init(model, KEY, make_batch(model))
    assert jax.tree.leaves(params)
    assert {leaf.dtype for leaf in floats((params, model_state))} == {jnp.dtype("float32")}
    assert trees_equal(params, init(model, KEY, make_batch(model, seed=1))[0])
    if not isinstance(model, PlainLinear):  # which starts from constants
        assert not trees_equal(params, init(model, jax.random.key(8), make_batch(model))[0])


@every_model
def test_loss_is_a_sum_that_doubles_with_the_batch(model):
    batch = make_batch(model)
    double = {name: np.concatenate([a, a]) for name, a in batch.items()}
    params, state = init(model, KEY, batch)
    once = loss_of(model, params, state, batch, KEY, False)
    twice = loss_of(model, params, state, double, KEY, False)
    num_labels = batch["labels"].size
    assert float(once.weight) == num_labels and float(twice.weight) == 2 * num_labels
    np.testing.assert_allclose(twice.total, 2 * once.total, rtol=1e-5)
    # The control: a mean would not have doubled.
    assert not np.allclose(twice.total / twice.weight, 2 * once.total / once.weight)


@every_model
def test_masked_examples_are_in_neither_the_sum_nor_its_weight(model):
    batch = make_batch(model)
    params, state = init(model, KEY, batch)
    five = {name: a[:5] for name, a in batch.items()}
    padded = {**batch, "mask": (np.arange(8) < 5).astype(np.float32)}
    want = loss_of(model, params, state, five, KEY, False)
    have = loss_of(model, params, state, padded, KEY, False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), have[:3], want[:3])
    unmasked = loss_of(model, params, state, batch, KEY, False)
    assert not np.allclose(unmasked.total, want.total)


@every_model
@pytest.mark.parametrize("train", [True, False])
def test_metrics_are_pairs_of_a_sum_and_a_weight(model, train):
    batch = make_batch(model)
    out = loss_of(model, *init(model, KEY, batch), batch, KEY, train)
    assert out.metrics
    for total, weight in (out[:2], *out.metrics.values()):
        assert total.shape == weight.shape == ()
        assert total.dtype == weight.dtype == jnp.float32
        assert float(weight) == batch["labels"].size


@every_model
def test_predictions_lead_with_the_batch_and_need_no_labels(model):
    batch = make_batch(model, size=5)
    params, state = init(model, KEY, batch)
    outputs = predict(model, params, state, batch["inputs"])
    assert all(leaf.shape[0] == 5 for leaf in jax.tree.leaves(outputs))
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    alone = predict(model, params, state, batch["inputs"][:1])
    np.testing.assert_allclose(outputs[:1], alone, rtol=1e-5, atol=1e-6)


@every_model
def test_optimizer_steps_and_keeps_shapes_and_dtypes(model):
    params, _ = init(model, KEY, make_batch(model))
    optimizer = model.optimizer(total_steps=10)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        return optax.apply_updates(params, updates), state

    stepped, state = params, optimizer.init(params)
    for _ in range(3):  # a warm-up may begin at 0
        stepped, state = step(stepped, state)
    assert jax.tree.map(jnp.shape, stepped) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(stepped)} == {jnp.dtype("float32")}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stepped, params)
    assert jax.tree.all(moved)


def train_and_compare(program, model):
    """Takes 60 steps; returns the loss of other examples before and after them."""
    global_batch, held_out = make_window(model), make_batch(model, seed=1)
    state = program.init()
    before = program.fetch(program.eval_step(state, held_out)).metrics["loss"]
    for _ in range(60):
        state, report = train_step(program, state, global_batch)
    after = program.fetch(program.eval_step(state, held_out)).metrics["loss"]
    assert program.fetch(report).guard.num_skipped == 0
    assert {leaf.dtype for leaf in floats(program.export_state(state))} == {jnp.dtype("float32")}
    assert program.num_compilations == {"train_step": 1, "eval_step": 1}
    return before, after


@pytest.mark.parametrize(
    "model",
    covering(MODELS_BY_NAME, default=["transformer", "nnx_batch_norm", "plain_jax"]),
)
def test_some_steps_reduce_the_loss(model):
    before, after = train_and_compare(make_program(model), model)
    assert after < 0.7 * before


@pytest.mark.parametrize(
    "model", covering({"linen": LinenNormed(), "nnx": NnxNormed()}, default=["nnx"])
)
def test_some_steps_reduce_the_loss_in_mixed_precision(model):
    before, after = train_and_compare(make_program(model, mixed_precision=True), model)
    assert after < 0.7 * before


def test_no_step_reduces_the_loss_without_a_learning_rate():
    model = PlainLinear(learning_rate=0.0)
    before, after = train_and_compare(make_program(model), model)
    assert after == before


@every_model
def test_a_state_of_the_model_survives_export_and_import(model):
    program, global_batch = make_program(model), make_window(model)
    state, _ = train_step(program, program.init(), global_batch)
    arrays = program.export_state(state)
    again = program.export_state(program.import_state(arrays))
    assert list(again) == list(arrays)
    assert trees_equal(again, arrays)


@every_normed
def test_batch_statistics_change_in_training_and_not_in_evaluation(model):
    batch = make_batch(model)
    params, state = init(model, KEY, batch)
    assert jax.tree.leaves(state)
    trained = loss_of(model, params, state, batch, KEY, True).model_state
    assert jax.tree.structure(trained) == jax.tree.structure(state)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trained, state)
    assert jax.tree.all(changed)
    evaluated = loss_of(model, params, state, batch, KEY, False).model_state
    assert trees_equal(evaluated, state)


@every_normed
def test_batch_statistics_are_those_of_numpy(model):
    batch = make_batch(model)
    params, state = init(model, KEY, batch)
    trained = loss_of(model, params, state, batch, KEY, True).model_state
    kernel = next(leaf for leaf in jax.tree.leaves(params) if leaf.shape == (NUM_FEATURES, 16))
    hidden = np.float64(batch["inputs"]) @ np.float64(kernel)
    mean, var = jax.tree.leaves(trained)  # sorted by name
    np.testing.assert_allclose(mean, 0.2 * hidden.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var, 0.8 + 0.2 * hidden.var(axis=0), rtol=1e-4)


@every_normed
def test_training_and_evaluation_see_different_networks(model):
    batch = make_batch(model)
    params, state = init(model, KEY, batch)
    totals = [loss_of(model, params, state, batch, KEY, train).total for train in (True, False)]
    assert not np.allclose(*totals)


@pytest.mark.parametrize(
    "model",
    covering({"mlp": CLASSIFICATION, "linen": LinenNormed(), "nnx": NnxNormed()}, default=["nnx"]),
)
def test_dropout_is_drawn_from_the_key_it_is_given_and_only_in_training(model):
    batch = make_batch(model, size=64)
    params, state = init(model, KEY, batch)

    def total(seed, train):
        return float(loss_of(model, params, state, batch, jax.random.key(seed), train).total)

    assert total(0, True) == total(0, True)
    assert len({total(seed, True) for seed in range(4)}) == 4
    assert len({total(seed, False) for seed in range(4)}) == 1


def test_dropout_layers_of_an_nnx_network_draw_different_masks():
    class TwoDropouts(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = (nnx.Dropout(0.5, rngs=rngs) for _ in range(2))

        def __call__(self, x):
            return self.second(self.first(x))

    @dataclass(frozen=True)
    class Doubly(NnxNormed):
        def network(self, rngs):
            return TwoDropouts(rngs)

    outputs, _ = Doubly().apply({}, {}, jnp.ones((8, 512)), KEY, True)
    # A quarter stays when the masks are independent; a half would if they were one mask.
    assert 0.2 < float((outputs != 0).mean()) < 0.3


def test_streams_of_an_nnx_network_are_seeded_whatever_their_name():
    class Noise(nnx.Module):
        def __init__(self, rngs):
            self.rngs = rngs

        def __call__(self, x):
            return x + self.rngs.noise.normal(x.shape)

    @dataclass(frozen=True)
    class Noisy(NnxNormed):
        def network(self, rngs):
            return Noise(nnx.Rngs(noise=rngs.noise()))

    draw = lambda key: Noisy().apply({}, {}, jnp.zeros((2, 3)), key, True)[0]
    assert np.array_equal(draw(KEY), draw(KEY))
    assert not np.array_equal(draw(KEY), draw(jax.random.key(8)))


def test_nnx_state_holds_no_streams_and_no_intermediates():
    model = NnxNormed()
    params, state = init(model, KEY, make_batch(model))
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path((params, state))}
    assert names == {
        "[0]['layers'][0]['kernel']",
        "[0]['layers'][1]['bias']",
        "[0]['layers'][1]['scale']",
        "[0]['layers'][4]['bias']",
        "[0]['layers'][4]['kernel']",
        "[1]['layers'][1]['mean']",
        "[1]['layers'][1]['var']",
    }


def test_nnx_and_linen_give_the_same_numbers_for_the_same_parameters():
    linen, other = LinenNormed(), NnxNormed()
    batch = make_batch(linen)
    params, state = init(other, KEY, batch)
    layers = params["layers"]
    twin = {"Dense_0": layers[0], "BatchNorm_0": layers[1], "Dense_1": layers[4]}
    twin_state = {"batch_stats": {"BatchNorm_0": state["layers"][1]}}

    want = predict(linen, twin, twin_state, batch["inputs"])
    have = predict(other, params, state, batch["inputs"])
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)
    elsewhere = predict(other, *init(other, jax.random.key(8), batch), batch["inputs"])
    assert not np.allclose(elsewhere, want, rtol=1e-5, atol=1e-6)


def test_probabilities_sum_to_one_for_a_classifier_and_are_refused_otherwise():
    outputs = jnp.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(CLASSIFICATION.probabilities(outputs).sum(), 1.0, rtol=1e-6)
    for model in (REGRESSION, PlainLinear()):
        with pytest.raises(AetheriaError, match="expected a model with classes"):
            model.probabilities(outputs)
