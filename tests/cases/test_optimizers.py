"""Optimizers as models return them: updates get what they take; who needs more is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest

from aetheria.errors import ModelError
from aetheria.hardware.jax.elastic import ElasticProgram
from aetheria.hardware.jax.mesh import make_mesh
from aetheria.hardware.jax.program import JaxProgram
from aetheria.hardware.jax.step import make_train_step
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.signature import make_signature
from aetheria.hardware.layout.state import make_init
from aetheria.model.precision import Precision
from aetheria.plugins import MODELS

MODEL = MODELS.get("Optimized", Path(__file__).parent / "project")
TAKEN = [
    "sgd",
    "adam",
    "chain",
    "multi",
    "masked",
    "injected",
    "every",
    "plateau",
    "polyak",
    "transparent sam",
    "value alone",
    "norm alone",
    "clipped",
    "clipped plateau",
    "averaged",
]
REFUSED = {
    "lbfgs": ("scale_by_zoom_linesearch", "optax.lbfgs", "value_fn"),
    "backtracking": ("scale_by_backtracking_linesearch", "value_fn"),
    "sam": ("got sam", "grad_fn"),
    "other": ("strict", "'other'"),
    "two strict": ("strict", "'value'"),
    "lookahead": ("got lookahead", "no attribute 'fast'"),
    "growing": ("its state 'more'", "no such leaf"),
}
ROWS = np.random.default_rng(0).normal(size=(1, 8, 3)).astype(np.float32)
WINDOW = {"inputs": ROWS, "labels": ROWS.sum(2), "mask": np.ones((1, 8), np.float32)}


def spec(global_batch=None):
    return ProgramSpec(
        example_global_batch=global_batch or WINDOW,
        total_steps=10,
        seed=0,
        mixed_precision=False,
        max_consecutive_skips=3,
    )


def steps(name, num_steps, global_batch=None):
    """The state after some steps of the pure train step."""
    model = MODEL(name)
    global_batch = global_batch or WINDOW
    optimizer = make_signature(model, spec(global_batch)).optimizer
    state = make_init(model, optimizer)(
        jax.random.key(0), {n: c[0] for n, c in global_batch.items()}
    )
    step = jax.jit(make_train_step(model, optimizer, Precision(), 3))
    for _ in range(num_steps):
        state, _ = step(state, global_batch)
    return state


@pytest.mark.parametrize("name", TAKEN)
def test_an_optimizer_of_optax_trains(name):
    assert np.abs(steps(name, 2).params["w"]).max() > 0


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_needs_more_is_refused_by_name(name):
    with pytest.raises(ModelError) as caught:
        make_signature(MODEL(name), spec())
    for word in ("optimized.py:", *REFUSED[name]):
        assert word in str(caught.value), (word, str(caught.value))
    assert "\n" not in str(caught.value)


def test_reduce_on_plateau_reduces():
    """The loss stands still: its rate is 1e-9."""
    assert float(steps("plateau", 1).opt_state[1].scale) == 1
    assert float(steps("plateau", 8).opt_state[1].scale) < 0.5


def test_the_value_is_the_mean_loss_of_what_is_not_padding():
    """The first gradient g of a loss f is scaled by min(f, 1)."""
    small = {**WINDOW, "labels": WINDOW["labels"] / 10, "mask": WINDOW["mask"].copy()}
    small["mask"][0, 4:] = 0
    loss = np.mean(small["labels"][0, :4] ** 2)
    assert loss < 1
    plain, scaled = (steps(name, 1, small).params["w"] for name in ("sgd", "value alone"))
    np.testing.assert_allclose(scaled, plain * loss, rtol=1e-5)


def test_clip_bounds_the_update_of_any_optimizer():
    assert float(np.linalg.norm(steps("clipped", 1).params["w"])) == pytest.approx(1e-3, rel=1e-5)
    assert np.linalg.norm(steps("sgd", 1).params["w"]) > 1e-3


@pytest.mark.parametrize("name", ["plateau", "value alone", "averaged"])
def test_lanes_are_given_the_same_values(name):
    model = MODEL(name)
    lanes = {n: c.reshape((2, 4, *c.shape[2:])) for n, c in WINDOW.items()}
    mesh = make_mesh({}, jax.devices()[:1])
    ends = []
    for kind, global_batch in ((JaxProgram, WINDOW), (ElasticProgram, lanes)):
        program = kind(model, spec(global_batch), mesh)
        chunk = {n: c[None] for n, c in global_batch.items()}
        state, _ = program.train_steps(program.init(), chunk, 0, 1)
        ends.append(program.export_state(state)["params/w"])
    np.testing.assert_allclose(*ends, rtol=1e-5)


@pytest.mark.parametrize("name", ["lbfgs", "sam"])
@pytest.mark.parametrize("setting", ["reproducibility=elastic", "strategy=torch"])
def test_the_command_refuses_them_with_every_program(train, name, setting):
    if "torch" in setting:
        pytest.importorskip("torch")
    params = {"name": name}
    key, _, value = setting.partition("=")
    answer = train(
        model_name="Optimized", model_params=params, data_name="regression", **{key: value}
    )
    answer.assert_refused("Optimized.optimizer", *REFUSED[name])


def test_an_optimizer_that_raises_shows_its_own_frames(train):
    answer = train(model_name="Optimized", model_params={"name": "failing"}, data_name="regression")
    assert answer.code == 1 and not answer.written and len(answer.lines) <= 10
    assert "optimized.py" in answer.err and "RuntimeError: on purpose" in answer.err


@pytest.mark.parametrize("key", ["learning_rate", "max_grad_norm", "ema_decay", "remat"])
def test_a_key_that_the_model_lacks_is_explained_by_its_own_name(train, key):
    value = "full" if key == "remat" else 0.5
    answer = train(model_name="Optimized", data_name="regression", **{key: value})
    answer.assert_refused(f"{key}: expected a model with a hyperparameter {key}, got Optimized")
    assert "model_params" not in answer.err
