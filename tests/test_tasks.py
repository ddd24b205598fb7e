"""Classifier and Regressor: a first model is short, trains, and computes what the field defines."""

import dataclasses
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.programs import make_spec, train_step

from aetheria import SGD, Classes, Classifier, Optimizer, Regressor
from aetheria.errors import AetheriaError
from aetheria.hardware.jax.strategy import select_strategy

FIRST_MODEL = textwrap.dedent(
    """
    from flax import linen as nn
    from aetheria import Classifier, register_model

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(10)(nn.relu(nn.Dense(32)(x)))

    @register_model("First")
    class First(Classifier):
        num_classes = 10

        def network(self):
            return Layers()
    """
)
KEY = jax.random.key(0)


def make_model(base, outputs):
    from flax import linen as nn

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(outputs)(x)

    @dataclasses.dataclass(frozen=True)
    class Small(base):
        size: int = 4  # a field without keyword-only, after the keyword-only ones of the base

        def network(self):
            return Layers()

    return Small


def make_batch(labels):
    rng = np.random.default_rng(0)
    mask = np.array([1, 1, 1, 0], np.float32)
    return {"inputs": rng.normal(size=(4, 3)).astype(np.float32), "labels": labels, "mask": mask}


def test_a_first_model_of_a_dozen_lines_trains_from_a_config(train, tmp_path):
    assert len([line for line in FIRST_MODEL.splitlines() if line]) <= 12
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "first.py").write_text(FIRST_MODEL)
    done = train(model_name="First", model_params={}, epochs=5, learning_rate=0.01)
    assert done.exit_code == 0
    accuracies = [line["accuracy"] for line in done.metrics if line["split"] == "eval"]
    assert accuracies[-1] > 0.8 > 0.2 > 1 / 10
    # What the record says of it: the base class's hyperparameters, defaults included.
    assert done.summary["status"] == "completed"


def test_cross_entropy_and_accuracy_are_those_of_numpy():
    model, labels = make_model(Classifier, 5)(), np.array([0, 4, 2, 1], np.int32)
    batch = make_batch(labels)
    params, state = jax.jit(model.init)(KEY, batch)
    logits = np.float64(jax.jit(model.predict)(params, state, batch["inputs"]))
    out = jax.jit(model.loss, static_argnums=4)(params, state, batch, KEY, False)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(out.total, -log_p[range(3), labels[:3]].sum(), rtol=1e-5)
    assert out.weight == out.metrics["accuracy"].weight == 3
    assert out.metrics["accuracy"].total == (logits.argmax(-1) == labels)[:3].sum()
    np.testing.assert_allclose(model.probabilities(logits), np.exp(log_p), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_squared_and_absolute_error_are_those_of_numpy(shape):
    model, labels = make_model(Regressor, 1)(), np.arange(4, dtype=np.float32).reshape(shape)
    batch = make_batch(labels)
    params, state = jax.jit(model.init)(KEY, batch)
    outputs = jax.jit(model.predict)(params, state, batch["inputs"])
    error = np.float64(outputs)[:3, 0] - np.arange(3)
    out = jax.jit(model.loss, static_argnums=4)(params, state, batch, KEY, False)
    np.testing.assert_allclose(out.total, (error**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["mae"].total, abs(error).sum(), rtol=1e-5)
    with pytest.raises(AetheriaError, match="predict_proba: expected a model with classes"):
        model.probabilities(jnp.zeros((4, 1)))


def test_labels_are_checked_where_the_number_of_classes_is_known():
    class Known(make_model(Classifier, 5)):
        num_classes = 5

    assert Known().class_columns() == {"labels": Classes(5)}
    assert make_model(Classifier, 5)().class_columns() == {}
    assert make_model(Regressor, 1)().class_columns() == {}


def test_the_optimizer_is_made_of_the_hyperparameters_and_the_rule_can_be_replaced():
    model = make_model(Regressor, 1)(learning_rate=0.5, max_grad_norm=2.0, ema_decay=0.9)
    made = model.optimizer(10)
    assert isinstance(made, Optimizer)
    assert (made.max_grad_norm, made.ema_decay) == (2.0, 0.9)
    assert made.learning_rate(1) == 0.5

    class WithSgd(type(model)):
        def update_rule(self):
            return SGD()

    assert WithSgd().optimizer(10).rule == SGD()


def test_a_program_calls_the_optimizer_hook_once():
    calls = []

    class Counted(make_model(Regressor, 1)):
        def optimizer(self, total_steps):
            calls.append(total_steps)
            return super().optimizer(total_steps)

    batch = make_batch(np.arange(4, dtype=np.float32))
    global_batch = {name: column[None] for name, column in batch.items()}
    program = select_strategy("cpu", {}).compile(Counted(), make_spec(global_batch))
    state, _ = train_step(program, program.init(), global_batch)
    program.fetch(program.eval_step(state, batch))
    assert calls == [10] and program.optimizer.learning_rate(1) == pytest.approx(1e-3)


def test_the_learning_rates_of_a_schedule_are_those_that_a_step_computes():
    optimizer = Optimizer(SGD(), optax.exponential_decay(0.3, 7, 0.9))
    rates = optimizer.learning_rates(20)
    stepped = jax.jit(optimizer.schedule)
    assert rates.dtype == np.float64 and rates.tolist() == [float(stepped(n)) for n in range(20)]
    assert rates[3] == pytest.approx(optimizer.learning_rate(3))
