"""The main job, end to end, as the README tells a user to run it."""

import json

import pytest
from support.long import only_long
from support.runs import REPOSITORY

from aetheria.data.images import fashion_mnist
from aetheria.errors import AetheriaError


def test_main_job_reaches_its_accuracy_with_one_compile_of_each_step(cli, tmp_path):
    config = REPOSITORY / "configs" / "mlp.py"
    done = cli(f"--config={config}", f"--workdir={tmp_path / 'w'}", module="aetheria.main")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert summary["final"]["eval/accuracy"] >= 0.97
    assert summary["num_compilations"] == {"train_step": 1, "eval_step": 1}
    assert summary["num_eval_examples"] == 359
    assert summary["examples_seen"] == 30 * 1438
    assert summary["status"] == "completed"


def start_of(config, cli, tmp_path, *overrides):
    """The summary of a shipped config, cut short by overrides."""
    file = REPOSITORY / "configs" / config
    arguments = (f"--config={file}", f"--workdir={tmp_path / 'w'}", *overrides)
    done = cli(*arguments, module="aetheria.main", as_user=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert summary["num_compilations"] == {"train_step": 1, "eval_step": 1}
    return summary["final"]


@only_long
@pytest.mark.slow
def test_the_language_model_learns_from_the_docs_of_python(cli, tmp_path):
    final = start_of("lm.py", cli, tmp_path, "--config.max_steps=100")
    assert final["eval/loss"] < 2.9  # 5.5 by chance, 3.14 by the frequencies of the bytes


@only_long
@pytest.mark.slow
def test_the_cnn_learns_from_fashion_mnist(cli, tmp_path):
    try:
        fashion_mnist()
    except AetheriaError as error:
        pytest.skip(str(error))
    few = ("--config.data_params.num_train=5000", "--config.data_params.num_eval=1000")
    final = start_of("cnn.py", cli, tmp_path, *few, "--config.epochs=1")
    assert final["eval/accuracy"] > 0.6  # 0.1 by chance


def test_the_same_config_gives_the_same_parameters(train):
    first, second = train("first"), train("second")
    assert first.summary["params_sha256"] == second.summary["params_sha256"]
    other = train("other", seed=1)
    assert first.summary["params_sha256"] != other.summary["params_sha256"]
