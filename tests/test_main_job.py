"""The main job, end to end, as the README tells a user to run it."""

import json

from conftest import REPOSITORY


def test_main_job_reaches_its_accuracy_with_one_compile_of_each_step(cli, tmp_path):
    config = REPOSITORY / "configs" / "mlp.py"
    done = cli(f"--config={config}", f"--workdir={tmp_path / 'w'}", module="aetheria.main")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert summary["final"]["eval/accuracy"] >= 0.97
    assert summary["compiles"] == {"train_step": 1, "eval_step": 1}
    assert summary["n_eval_examples"] == 359
    assert summary["examples_seen"] == 30 * 1438
    assert summary["status"] == "completed"


def test_the_same_config_gives_the_same_parameters(train):
    first, second = train("first"), train("second")
    assert first.summary["params_sha256"] == second.summary["params_sha256"]
    other = train("other", seed=1)
    assert first.summary["params_sha256"] != other.summary["params_sha256"]
