"""The learning rate that reports tell is the one that a step used."""

import optax
import pytest

from aetheria import SGD, Optimizer, warmup_cosine
from aetheria.model.optimizers import hyperparameters_of


def test_a_report_tells_the_learning_rate_of_its_last_update():
    schedule = warmup_cosine(0.1, 100)
    read = hyperparameters_of(Optimizer(SGD(), schedule))
    assert read is not None
    for count in (0, 1, 5, 50, 99, 4095, 4096, 5000, 3):
        expected = pytest.approx(float(schedule(count)), rel=1e-6, abs=1e-9)
        assert read(count) == {"learning_rate": expected}
    assert hyperparameters_of(Optimizer(SGD(), 0.001))(7) == {"learning_rate": 0.001}
    assert hyperparameters_of(optax.sgd(0.1)) is None


def test_a_run_tells_the_rate_of_each_of_its_steps(train):
    run = train(
        "run", max_steps=12, log_every_steps=1, model_params={"input_dim": 64, "num_classes": 10}
    )
    told = [line["learning_rate"] for line in run.metrics if line["split"] == "train"]
    schedule = warmup_cosine(0.003, 12)
    assert told == pytest.approx([float(schedule(count)) for count in range(12)], rel=1e-6)
