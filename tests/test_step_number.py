"""`current_step` in a loss: the number of the step, on every backend and after a resume."""

import aetheria.models.mlp
import jax.numpy as jnp
import numpy as np
import pytest
from support.long import covering

import aetheria
from aetheria import loops
from aetheria.model.step_number import at_step

COUNTING = """
from dataclasses import dataclass

import aetheria
import aetheria.models.mlp
from aetheria.models.mlp import SimpleMLP


@aetheria.register_model("Counting")
@dataclass(frozen=True)
class Counting(SimpleMLP):
    '''The loss grows by a number of the step; the metric is that number.'''

    def score(self, outputs, batch):
        loss, metrics = super().score(outputs, batch)
        step = aetheria.current_step()
        total = loss.total * (1 + 0.1 * step)
        seen = aetheria.weighted(batch["mask"] * 0 + step, batch["mask"])
        return aetheria.WeightedSum(total, loss.weight), {"seen": seen}
"""
TWIN = """
from aetheria.pytorch import register_counterpart, weighted
from aetheria.models.mlp_torch import Twin as Plain

import aetheria
import aetheria.models.mlp
from .counting import Counting


class Counterpart(Plain):
    def loss(self, outputs, batch):
        loss = super().loss(outputs, batch)
        return type(loss)(loss.total * (1 + 0.1 * aetheria.current_step()), loss.weight)

    def metrics(self, outputs, batch):
        mask = batch["mask"]
        return {"seen": weighted(mask * 0 + aetheria.current_step(), mask)}


@register_counterpart(Counting)
def make(model, example_batch):
    return Counterpart(model)
"""
PARAMS = {"input_dim": 64, "hidden_dim": 16, "num_classes": 10}
CONFIG = {
    "model_name": "Counting",
    "model_params": PARAMS,
    "max_steps": 6,
    "log_every_steps": 1,
    "eval_every_steps": 3,
}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "counting.py").write_text(COUNTING)
    (tmp_path / "models" / "counting_torch.py").write_text(TWIN)
    return tmp_path


def seen(run, split):
    return [line["seen"] for line in run.metrics if line["split"] == split]


WAYS = {
    "one device": {},
    "micro-batches": {"grad_accumulation_steps": 4},
    "mesh": {"strategy": "mesh", "mesh": {"data": 2}},
    "elastic": {"reproducibility": "elastic", "lanes": 2},
    "torch": {"strategy": "torch", "grad_accumulation_steps": 2},
}


@pytest.mark.parametrize("way", covering(WAYS, default=["elastic", "torch"]))
def test_every_part_of_a_step_sees_its_number_and_so_does_a_resumed_run(train, project, way):
    if way.get("strategy") == "torch":
        pytest.importorskip("torch")
    whole = train("whole", **CONFIG, **way)
    assert seen(whole, "train") == [0, 1, 2, 3, 4, 5] and seen(whole, "eval") == [3, 6]
    train("run", **CONFIG, **way, stop_at_step=4)
    resumed = train("run", **CONFIG, **way, resume="latest")
    assert seen(resumed, "train") == [0, 1, 2, 3, 4, 5]
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]


def test_both_backends_and_the_replay_of_a_step_agree(project, command):
    pytest.importorskip("torch")
    (project / "c.yaml").write_text(
        f"model_name: Counting\nmodel_params: {PARAMS}\ndata_name: digits\nbatch_size: 64\n"
        "grad_accumulation_steps: 2\n"
    )
    said = command("parity", "c.yaml", "--steps=4")
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_loop_of_ones_own_and_a_model_alone_have_it_too():
    assert int(aetheria.current_step()) == 0
    with at_step(jnp.int32(7)):
        assert int(aetheria.current_step()) == 7
    assert int(aetheria.current_step()) == 0

    class Counting(aetheria.models.mlp.SimpleMLP):
        def score(self, outputs, batch):
            loss, _ = super().score(outputs, batch)
            step = batch["mask"] * 0 + aetheria.current_step()
            return loss, {"seen": aetheria.weighted(step, batch["mask"])}

    model = Counting(**PARAMS)
    data = np.zeros((8, 64), "f4"), np.zeros(8, int)
    batches = loops.Batches(data, batch_size=4)
    state, found = loops.make_init(model, 3)(0, batches.example()), []
    step = loops.jit(loops.make_train_step(model, 3))
    for _, batch in zip(range(3), batches.train(), strict=False):
        state, report = step(state, batch.columns)
        found.append(float(report.metrics["seen"]))
    assert found == [0, 1, 2]


def test_a_replay_of_a_step_sees_its_number(train, project, command):
    """The loss is a NaN at one step alone, so a replay at any other would find nothing."""
    grow = "total = loss.total * (1 + 0.1 * step)"
    bad = "total = loss.total * jax.numpy.where(step == 3, jax.numpy.nan, 1.0)"
    code = COUNTING.replace(grow, bad).replace(
        "import aetheria\n", "import aetheria\nimport jax\n", 1
    )
    (project / "models" / "counting.py").write_text(code)
    run = train("run", **CONFIG)
    assert run.summary["skipped"]["num_steps"] == 1
    dump = next((run.run_dir / "dumps").iterdir())
    assert dump.name == "nonfinite_step4"
    said = command("debug", "nan", str(dump))
    assert said.returncode == 0 and "finite here" not in said.stdout, said.stdout + said.stderr
