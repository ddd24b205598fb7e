"""Accumulation through `aetheria train` itself: the same gradient, whatever it is cut into."""

import numpy as np
import pytest
from support.long import covering

from aetheria.snapshots import read_snapshot

MODEL = """
from dataclasses import dataclass

import jax
import optax

from aetheria import LossOutput, Model, register_model, weighted


@register_model("Traced")
@dataclass(frozen=True)
class Traced(Model):
    use_weights: bool = True

    def init(self, rng, example_batch):
        return {"kernel": jax.random.normal(rng, (64, 10))}, {}

    def loss(self, params, model_state, batch, rng, train):
        logits = self.predict(params, model_state, batch["inputs"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        weight = batch["mask"] * (batch["weight"] if self.use_weights else 1)
        return LossOutput(*weighted(losses, weight), {}, model_state)

    def predict(self, params, model_state, inputs):
        return inputs @ params["kernel"]

    def optimizer(self, total_steps):
        # Keeps the last gradient in its state, and leaves the parameters where they are.
        return optax.chain(optax.trace(decay=0.0), optax.scale(0.0))
"""

DATA = """
import numpy as np

from aetheria import ArraySource, DataSplits, register_data
from aetheria.data.datasets import digits


@register_data("weighted_digits")
def weighted_digits():
    columns = digits().train.read(np.arange(100))
    columns["weight"] = np.random.default_rng(0).uniform(0, 5, 100) * (np.arange(100) % 3 > 0)
    source = ArraySource(columns)
    return DataSplits(train=source, eval=source)
"""


@pytest.fixture
def gradient(train, tmp_path):
    """The gradient of the last of `max_steps` steps, read from the run's snapshot."""
    for folder, name, text in (("models", "traced", MODEL), ("data", "weighted", DATA)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(text)

    def run(**changes):
        name = "-".join(str(value) for value in changes.values())
        common = {"model_name": "Traced", "data_name": "weighted_digits", "learning_rate": None}
        done = train(name, **{**common, "model_params": {}, **changes})
        (path,) = (done.run_dir / "checkpoints").glob("snapshot_*")
        (leaf,) = [a for p, a in read_snapshot(path).arrays.items() if p.startswith("opt_state/")]
        return leaf

    return run


def difference(one, other):
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


@pytest.mark.parametrize(
    "step", covering({"whole window": 1, "ragged tail": 2}, default=["ragged tail"])
)
def test_four_micro_batches_give_the_gradient_of_the_whole_batch(gradient, step):
    whole = gradient(max_steps=step, grad_accumulation_steps=1)
    in_four = gradient(max_steps=step, grad_accumulation_steps=4)
    assert np.linalg.norm(whole) > 1e-3
    assert difference(whole, in_four) <= 1e-6
    unweighted = gradient(
        max_steps=step, grad_accumulation_steps=4, model_params={"use_weights": False}
    )
    assert difference(whole, unweighted) > 1e-2, "the control: the weights do matter"
