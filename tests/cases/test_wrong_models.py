"""A mistake in a model: one line, or the user's own frames of an exception."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from aetheria import weighted
from aetheria.errors import ModelError
from aetheria.model.metrics import TracedShapes, traced_shapes
from aetheria.plugins.user_code import describe, is_users

pytestmark = pytest.mark.own_programs  # its frames are of the user alone

# What the contract forbids: one line, exit 2. The second word of each is the hook's name or file.
REFUSED = {
    "Broadcasts": ("wrong.py:", "weighted", "got [batch, batch]", "squeeze"),
    "ScalarValues": ("wrong.py:", "weighted", "got []", "mean"),
    "WrongKey": ("a column 'label'", "wrong.py:", "rename 'labels'"),
    "Mean": ("Mean.score", "wrong.py:", "expected a sum and its weight, got float32 []"),
    "NotCalled": ("NotCalled.optimizer", "wrong.py:", "the function adam; call it"),
    "NoTrainArgument": ("NoTrainArgument.init", "wrong.py:", "argument 'train'"),
    "NotMade": ("NotMade.network", "wrong.py:", "got the class Net"),
    "FewArguments": ("FewArguments.score", "wrong.py:", "(outputs, batch)"),
    "BareMetric": ("BareMetric.score", "wrong.py:", "metric 'mae'", "got float32 []"),
    "InitOne": ("InitOne.init", "hooks.py:", "expected a pair", "got dict"),
    "LossNumber": ("LossNumber.loss", "hooks.py:", "expected a LossOutput, got float32 []"),
    "LossVector": ("LossVector.loss", "hooks.py:", "real scalar total, got float32 [64]"),
    "MetricList": ("MetricList.loss", "hooks.py:", "expected a dict of metrics, got list"),
    "StateGrows": ("StateGrows.loss", "hooks.py:", "model_state 'count'", "no such leaf"),
    "NoOptimizer": ("NoOptimizer.optimizer", "hooks.py:", "got None"),
}
# Exceptions: his own frames, exit 1.
RAISES = {
    "Typo": ("in optimizer: return optax.adam(learning_rte=3)", "TypeError", "'learning_rte'"),
    "PythonIf": ("in score: scale = 2.0 if", "TracerBoolConversionError", "jnp.where"),
    "Item": (".item()", "ConcretizationTypeError", "the array itself"),
    "Shapes": ("in score: return weighted(outputs @ outputs", "TypeError", "dot_general"),
    "DeepShapes": ("in head: return nn.Dense(1)(x).reshape(3, 7)", "TypeError", "(3, 7)"),
    "Recursion": ("more of your frames)", "RecursionError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hook_that_breaks_the_contract_is_one_line(train, name):
    train(model_name=name, data_name="regression").assert_refused(*REFUSED[name])


@pytest.mark.parametrize("name", RAISES)
def test_an_exception_shows_the_users_own_frames(train, name):
    answer = train(model_name=name, data_name="regression")
    assert answer.code == 1 and not answer.written
    assert len(answer.lines) <= 10, answer.err
    for word in RAISES[name]:
        assert word in answer.err, (word, answer.err)
    places = [line.split(":")[0] for line in answer.lines[1:] if ".py:" in line]
    assert places and all(place.endswith("models/wrong.py") for place in places), answer.err


def test_the_whole_traceback_is_an_option(train):
    with pytest.raises(TypeError, match="learning_rte"):
        train("--traceback", model_name="Typo", data_name="regression")


@pytest.mark.parametrize("name", ["Right", "Plain"])
def test_models_without_a_mistake_train(train, name):
    assert train(model_name=name, data_name="regression").code == 0


def test_data_that_raises_within_a_run_fails_it_with_the_users_frames(train):
    answer = train(model_name="Plain", data_name="regression", data_params={"fails": True})
    assert answer.code == 1 and len(answer.lines) <= 10
    assert "regression.py" in answer.err and "OSError: the disk is gone" in answer.err
    (summary,) = [path for path in answer.written if path.endswith("summary.json")]
    assert '"status": "failed"' in Path(summary).read_text()


def test_an_exception_of_ours_has_no_frames_of_a_user():
    with pytest.raises(TypeError) as caught:
        weighted(object(), np.ones(3))  # type: ignore[arg-type]
    assert describe(caught.value) is not None  # this test's own frame
    assert describe(caught.value.with_traceback(caught.tb.tb_next)) is None


def test_files_of_libraries_are_not_the_users():
    assert is_users(__file__)
    for module in (np, pytest, Path):
        file = getattr(module, "__file__", None) or __import__(module.__module__).__file__
        assert not is_users(file), file
    assert not is_users("<frozen importlib._bootstrap>")


BATCH = np.zeros((8, 3), np.float32)


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ((8,), (8,)),
        ((8, 3), (8,)),
        ((8, 3), (8, 3)),
        ((8, 3), (8, 1)),
        ((8, 1), (8,)),
        ((8, 8), (8,)),
        ((8,), ()),
        ((), ()),
    ],
)
def test_weights_of_the_leading_dims_are_taken(values, weights):
    total, weight = weighted(jnp.ones(values), jnp.ones(weights))
    assert total == weight == np.prod(values)


@pytest.mark.parametrize(
    ("values", "weights"),
    [((), (8,)), ((8,), (8, 1)), ((1, 8), (8,)), ((8, 3), (3,)), ((8, 3), (8, 2)), ((3, 8), (8,))],
)
def test_weights_of_other_dims_are_refused_with_both_shapes(values, weights):
    with pytest.raises(ModelError) as caught:
        weighted(jnp.ones(values), jnp.ones(weights))
    assert str(list(values)) in str(caught.value) and str(list(weights)) in str(caught.value)


def _shapes_of(loss, length):
    """What the shapes of a loss over a batch of 8 with `length` tokens say."""
    batch = {"tokens": np.zeros((8, length), np.float32), "mask": np.ones(8, np.float32)}
    with traced_shapes(batch) as shapes:
        loss(batch)
    return shapes


def _tokens(batch):
    return weighted(jnp.zeros(batch["tokens"].shape), jnp.zeros(batch["mask"].shape))


def _square(batch):
    one = jnp.zeros(batch["mask"].shape)
    return weighted(one[:, None] - one, one)


def _weighted_square(batch):
    one = jnp.zeros(batch["mask"].shape)
    return weighted(one[:, None] - one, one[:, None] * one)


@pytest.mark.parametrize("length", [8, 16, 24])
def test_as_many_tokens_as_examples_are_no_square(length):
    shapes = _shapes_of(_tokens, length)
    other = shapes.other_batch()
    assert (other is None) == (length != 8)  # the usual loss is traced once
    if other is not None:
        shapes.compare(lambda: _tokens(other))


def test_a_square_of_examples_is_seen_by_a_batch_of_another_size():
    shapes: TracedShapes = _shapes_of(_square, 8)
    other = shapes.other_batch()
    with pytest.raises(ModelError, match=r"test_wrong_models\.py:.*batch, batch"):
        shapes.compare(lambda: _square(other))
    assert _shapes_of(_weighted_square, 3).other_batch() is None  # each pair has its weight
