"""The edges of the model contract: several inputs, RNG streams of any name, predictions."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from aetheria.errors import AetheriaError, ModelError
from aetheria.hardware.jax.prediction import PredictProgram
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.signature import make_signature
from aetheria.inference import Predictor
from aetheria.plugins import MODELS

PROJECT = Path(__file__).parent / "project"
RANDOM = np.random.default_rng(1)
INPUTS = {
    "wide": RANDOM.normal(size=(5, 5)).astype(np.float32),
    "deep": {
        "code": np.arange(5, dtype=np.int32) % 4,
        "size": RANDOM.normal(size=5).astype(np.float32),
    },
}
SPEC = {
    "inputs/wide": {"shape": [5], "dtype": "float32"},
    "inputs/deep/code": {"shape": [], "dtype": "int32"},
    "inputs/deep/size": {"shape": [], "dtype": "float32"},
    "labels": {"shape": [], "dtype": "float32"},
    "mask": {"shape": [], "dtype": "float32"},
}


def model(name, **params):
    return MODELS.get(name, PROJECT)(**params)


def predict(name, inputs, **params):
    program = PredictProgram(model(name, **params), SPEC, mixed_precision=False)
    weights = program.place({"params/w": np.ones(5, np.float32)})
    return program.run(weights, inputs)


def digest(answer):
    (summary,) = [path for path in answer.written if path.endswith("summary.json")]
    return json.loads(Path(summary).read_text())["params_sha256"]


def test_several_inputs_train_and_predict_alike(train):
    """As a mapping of arrays, in records, and as columns named by their paths: the same bits."""
    answers = [
        train(
            model_name="SeveralInputs",
            data_name="several",
            data_params={"form": form},
        )
        for form in ("arrays", "records", "flat")
    ]
    assert [answer.code for answer in answers] == [0, 0, 0]
    assert len({digest(answer) for answer in answers}) == 1
    run_dir = next(p for p in answers[0].written if p.endswith("summary.json"))
    predictor = Predictor(checkpoint_path=str(Path(run_dir).parent), project=PROJECT)
    outputs = predictor.predict(INPUTS)
    assert outputs.shape == (5,)
    one = jax.tree.map(lambda column: column[2:3], INPUTS)
    np.testing.assert_allclose(predictor.predict(one), outputs[2:3], rtol=1e-6)


def test_predictions_of_a_mapping_are_those_of_the_model():
    expected = INPUTS["wide"].sum(1) + INPUTS["deep"]["size"]
    np.testing.assert_allclose(predict("SeveralPlain", INPUTS), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (INPUTS["wide"], ("a mapping of wide, deep", "ndarray")),
        ({"wide": INPUTS["wide"]}, ("a mapping of wide, deep", "got wide")),
        ({**INPUTS, "more": 1}, ("a mapping of wide, deep", "more")),
        ({**INPUTS, "wide": INPUTS["wide"][:, :3]}, ("inputs/wide [batch, 5]", "[5, 3]")),
        ({**INPUTS, "wide": INPUTS["wide"][:3]}, ("as many rows in every column", "[3, 5]")),
        ({**INPUTS, "deep": {**INPUTS["deep"], "code": np.ones(5)}}, ("inputs/deep/code", "int32")),
    ],
)
def test_inputs_unlike_those_of_training_are_one_line(inputs, words):
    with pytest.raises(AetheriaError) as caught:
        predict("SeveralPlain", inputs)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_pytorch_refuses_several_inputs(train):
    answer = train(model_name="SeveralPlain", data_name="several", strategy="torch")
    assert answer.code == 2 and len(answer.lines) == 1 and not answer.written


def test_a_prediction_that_does_not_lead_with_the_batch_is_refused():
    with pytest.raises(
        ModelError, match=r"FewOutputs.predict .*edges.py:.*\[8, ...\].*float32 \[\]"
    ):
        predict("FewOutputs", INPUTS)


def test_an_exception_in_a_prediction_names_the_users_frames():
    with pytest.raises(TypeError) as caught:
        predict("PredictRaises", INPUTS)
    (note,) = [n for n in caught.value.__notes__ if n.startswith("in your code: ")]
    assert "edges.py" in note and 'inputs["deep"]["code"] @ params["w"]' in note


ROWS = RANDOM.normal(size=(1, 8, 5)).astype(np.float32)
WINDOW = {"inputs": ROWS, "labels": ROWS.sum(2), "mask": np.ones((1, 8), np.float32)}


def losses(noisy, train, keys):
    params, state = jax.jit(noisy.init)(jax.random.key(0), {"inputs": ROWS[0]})
    batch = {name: column[0] for name, column in WINDOW.items()}
    loss = jax.jit(noisy.loss, static_argnums=4)
    return [float(loss(params, state, batch, jax.random.key(key), train).total) for key in keys]


def test_rng_streams_of_any_name_follow_the_steps_key():
    noisy = model("Noise")
    first, other, again = losses(noisy, True, (1, 2, 1))
    assert first == again != other
    assert len(set(losses(noisy, False, (1, 2)))) == 1  # draws nothing in an evaluation


class Draws(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        keys = [self.make_rng(name) for name in ("noise", "gate", "dropout", "noise")]
        return jnp.stack([jax.random.normal(key) for key in keys])


class Drawing(type(model("Noise"))):
    def network(self):
        return Draws()


def test_no_two_draws_of_streams_are_the_same():
    draws, _ = Drawing().apply({}, {}, np.zeros(4, np.float32), jax.random.key(0), True)
    assert len(set(draws.tolist())) == 4


def test_a_network_that_draws_in_evaluations_cannot_be_predicted_with():
    stray = model("Noise", stray=True)
    spec = ProgramSpec(
        example_global_batch=WINDOW,
        total_steps=2,
        seed=0,
        mixed_precision=False,
        max_consecutive_skips=3,
    )
    assert make_signature(stray, spec).eval_metrics == ("eval/loss",)
    params, state = stray.init(jax.random.key(0), {"inputs": ROWS[0]})
    with pytest.raises(Exception, match="noise"):
        stray.predict(params, state, ROWS[0])
