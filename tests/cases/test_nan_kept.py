"""A NaN stays NaN, and an infinity infinite, in training, evaluation and prediction, whatever the
batch size: XLA's library drops them where maxima are fused to products.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.long import covering_rows

from aetheria.hardware.jax import compiler
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.prediction import PredictProgram
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.model.by_name import make_model

pytestmark = pytest.mark.optimized

SIZES = (1, 2, 4, 8, 16, 32, 64)
WEIGHTS = np.asarray(jax.random.normal(jax.random.key(0), (64, 128)))
FORMS = {
    "relu": lambda x: jnp.maximum(x @ WEIGHTS + 1, 0),
    "relu of lhs": lambda x: jnp.maximum(x, 0) @ WEIGHTS,
    "bfloat16 relu": lambda x: jax.nn.relu(x.astype("bfloat16") @ WEIGHTS.astype("bfloat16")),
    "min": lambda x: jnp.minimum(x @ WEIGHTS, 0),
    "clip": lambda x: jnp.clip(x @ WEIGHTS, -1, 1),
    "relu6": lambda x: jax.nn.relu6(x @ WEIGHTS),
    "leaky relu": lambda x: jax.nn.leaky_relu(x @ WEIGHTS),
    "gelu": lambda x: jax.nn.gelu(x @ WEIGHTS),
    "max of two": lambda x: jnp.maximum(x @ WEIGHTS, x @ (WEIGHTS + 1)),
    "reduce max": lambda x: jnp.max(x @ WEIGHTS, -1, keepdims=True),
    "reduce min": lambda x: jnp.min(x @ WEIGHTS, -1, keepdims=True),
    "max pooling": lambda x: (x @ WEIGHTS).reshape(len(x), 8, 2, 8).max(2),
    "log softmax": lambda x: jax.nn.log_softmax(x @ WEIGHTS),
}
BROKEN = {
    "fused": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
    "XLA's default": {},
}


def rows(size, value):
    """f32 [size, 64], the last row `value`; the others ordinary."""
    inputs = np.random.default_rng(0).normal(size=(size, 64)).astype(np.float32)
    inputs[-1] = value
    return inputs


def sizes_that_drop(form):
    jitted = jit_for("cpu")(FORMS[form])
    outputs = {size: np.asarray(jitted(rows(size, np.nan))) for size in SIZES}
    assert all(np.isfinite(out[:-1].astype(np.float32)).all() for out in outputs.values())
    return [size for size, out in outputs.items() if not np.isnan(out[-1].astype(np.float32)).all()]


@pytest.mark.parametrize("form", FORMS)
def test_a_row_of_nan_is_nan_behind_every_form_of_product(form):
    assert sizes_that_drop(form) == []


@pytest.mark.parametrize(
    ("options", "form"), [("fused", "relu"), ("fused", "min"), ("XLA's default", "reduce max")]
)
def test_the_controls_drop_it_in_larger_batches(options, form, monkeypatch):
    monkeypatch.setattr(compiler, "_OPTIONS", {"cpu": BROKEN[options]})
    assert sizes_that_drop(form) == [32, 64]


@pytest.mark.parametrize("size", SIZES)
def test_an_infinity_survives_relu_and_max_and_is_clipped(size):
    weights = abs(WEIGHTS)
    forms = {
        np.inf: lambda x: (jax.nn.relu(x @ weights), jnp.max(x @ weights, -1)),
        -np.inf: lambda x: (-jax.nn.relu(x @ -weights), jnp.min(x @ weights, -1)),
        1.0: lambda x: (jnp.clip(x @ weights, -1, 1), jax.nn.sigmoid(x @ weights)),
    }
    for want, form in forms.items():
        value = -np.inf if want < 0 else np.inf
        for out in jit_for("cpu")(form)(rows(size, value)):
            np.testing.assert_array_equal(np.asarray(out[-1]), want)
            assert np.isfinite(out[:-1]).all()


def vectors(size):
    return rows(size, 1.0)


def images(size):
    return np.random.default_rng(0).random((size, 8, 8, 1)).astype(np.float32)


def tokens(size):
    """The last token is in the last row alone; no other row sees its embedding."""
    inputs = np.random.default_rng(0).integers(0, 60, (size, 16)).astype(np.int32)
    inputs[-1] = 60
    return inputs


MODELS = {
    "SimpleMLP": ({"input_dim": 64, "num_classes": 10}, vectors),
    "SimpleCNN": ({"conv_dims": (8,), "hidden_dim": 64}, images),
    "Transformer": (
        {
            "vocab_size": 61,
            "num_layers": 1,
            "width": 64,
            "num_heads": 2,
            "max_length": 16,
            "tied_embeddings": False,
        },
        tokens,
    ),
}


def poison(arrays, inputs):
    """Makes the last row NaN: its inputs, or what stands for its token in the embedding."""
    if inputs.dtype.kind == "f":
        inputs[-1] = np.nan
        return arrays, inputs
    table = np.array(arrays["params/tokens/embedding"])
    table[60] = np.nan
    return {**arrays, "params/tokens/embedding": table}, inputs


def make_window(name, size):
    inputs = MODELS[name][1](size)
    labels = inputs if name == "Transformer" else np.arange(size, dtype=np.int32) % 10
    return {"inputs": inputs, "labels": labels, "mask": np.ones(size, np.float32)}


def make_program(name, size, elastic):
    model = make_model(name, MODELS[name][0], None)
    global_batch = {key: column[None] for key, column in make_window(name, size).items()}
    spec = ProgramSpec(
        example_global_batch=global_batch,
        total_steps=10,
        seed=0,
        mixed_precision=False,
        max_consecutive_skips=10,
    )
    return select_strategy("cpu", {}, elastic=elastic).compile(model, spec)


@functools.cache
def initial(name):
    """A state of step 0: path -> array. Its parameters are drawn here, since XLA compiles a model's
    own initializers for seconds.
    """
    program, rng = make_program(name, 64, False), np.random.default_rng(0)
    shapes = named_leaves(program.abstract_state)
    draw = lambda s: (0.1 * rng.normal(size=s.shape)).astype(s.dtype)
    return {
        path: draw(s) if path.startswith("params") else np.zeros(s.shape, s.dtype)
        for path, s in shapes.items()
    }


def buckets_that_drop(name, sizes=SIZES):
    """The prediction's batch sizes whose last row is NaN, and is not predicted as NaN."""
    example = MODELS[name][1](1)[0]
    spec = {"inputs": {"shape": example.shape, "dtype": str(example.dtype)}}
    predict = PredictProgram(make_model(name, MODELS[name][0], None), spec, mixed_precision=False)
    missed = []
    for size in sizes:
        poisoned, inputs = poison(initial(name), MODELS[name][1](size))
        outputs = predict.run(predict.place(poisoned), inputs)
        assert np.isfinite(outputs[:-1]).all()
        if not np.isnan(outputs[-1]).all():
            missed.append(size)
    return missed


@pytest.mark.parametrize("name", MODELS)
def test_prediction_keeps_it_in_every_bucket(name):
    assert buckets_that_drop(name) == []


def trained_and_evaluated(name, elastic):
    """Windows skipped, and the evaluation's loss, of one batch of 64 whose last row is NaN."""
    program = make_program(name, 64, elastic)
    global_batch = make_window(name, 64)
    arrays, global_batch["inputs"] = poison(initial(name), global_batch["inputs"])
    state = program.import_state(arrays)
    totals = program.fetch(program.eval_step(state, global_batch))
    chunk = {key: column[None, None] for key, column in global_batch.items()}
    _, report = program.train_steps(state, chunk, 0, 1)
    return program.fetch(report).guard.num_skipped, totals.metrics["loss"]


# Lanes are compiled with the same options; one model shows that they are.
@pytest.mark.parametrize(
    ("name", "elastic"),
    covering_rows(
        [*((name, False) for name in MODELS), ("SimpleMLP", True)],
        default=[("SimpleCNN", False), ("SimpleMLP", True)],
    ),
)
def test_training_skips_it_and_evaluation_shows_it(name, elastic):
    skipped, loss = trained_and_evaluated(name, elastic)
    assert skipped == 1
    assert np.isnan(loss)


@pytest.mark.own_programs
def test_the_control_predicts_and_evaluates_as_if_nothing_were_wrong(monkeypatch):
    monkeypatch.setattr(compiler, "_OPTIONS", {"cpu": BROKEN["fused"]})
    assert buckets_that_drop("SimpleMLP", [1, 64]) == [64]
    _, loss = trained_and_evaluated("SimpleMLP", False)
    assert np.isfinite(loss)
