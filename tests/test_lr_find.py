"""`aetheria lr-find`: what it suggests, what it refuses, and that it keeps nothing."""

import json

import pytest
import yaml
from support.compiled import compiled_functions
from support.runs import DIGITS

OWN = """\
from dataclasses import dataclass
import optax
from flax import linen as nn
from aetheria import Classifier, register_model


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10)(x)


class Base(Classifier):
    num_classes = 10

    def network(self):
        return Net()


@register_model("Hides")
@dataclass(frozen=True)
class Hides(Base):
    def optimizer(self, total_steps):
        return optax.adam(self.learning_rate)
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(DIGITS))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "own.py").write_text(OWN)
    return tmp_path


def test_the_suggested_rate_trains_better_than_others(here, command, train):
    before = sorted(here.rglob("*.yaml"))
    done = command("lr-find", "c.yaml", "--json", "--high=10")
    assert done.returncode == 0 and sorted(here.rglob("*.yaml")) == before
    assert not (here / "runs").exists()
    found = json.loads(done.stdout)
    rates, rate = found["rates"], found["suggestion"]
    assert rates[0] == pytest.approx(1e-6) and rates == sorted(rates)
    losses = {
        factor: train(f"x{factor}", learning_rate=rate * factor).summary["final"]["eval/loss"]
        for factor in (0.01, 1, 100)
    }
    assert losses[1] < min(losses[0.01], losses[100]), (rate, losses)


def test_the_curve_is_printed_and_one_step_compiled(here, command):
    with compiled_functions() as names:
        done = command("lr-find", "c.yaml")
    assert names.count("train_steps") == 1, names
    assert "1.00e-06" in done.stdout and "suggestion: --set learning_rate=" in done.stdout


def test_without_a_fall_there_is_no_suggestion(here, command):
    done = command("lr-find", "c.yaml", "--low=1e-9", "--high=1e-8", "--steps=20")
    assert done.returncode == 1 and "the loss does not fall" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set=model_name=Hides", "--set=model_params={}"], "hides its learning rate"),
        (["--low=1", "--high=0.1"], "--low: expected less than --high"),
        (["--set=strategy=torch"], "expected a strategy of JAX"),
        (["--set=data_name=digit"], "use 'digits'"),
    ],
)
def test_a_mistake_is_one_line(words, said, here, command):
    done = command("lr-find", "c.yaml", *words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
