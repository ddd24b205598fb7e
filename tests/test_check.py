"""`aetheria check`: all problems at once, each of its own kind, and nothing written."""

import json

import pytest
import yaml
from support.runs import DIGITS

CRASHES = """\
from dataclasses import dataclass
import jax
from aetheria import register_model
from aetheria.models.mlp import SimpleMLP


def fail(x):
    raise RuntimeError("only in a step")


@register_model("Crashes")
@dataclass(frozen=True)
class Crashes(SimpleMLP):
    def loss(self, params, model_state, batch, rng, train):
        jax.debug.callback(fail, batch["mask"])
        return super().loss(params, model_state, batch, rng, train)
"""


@pytest.fixture
def check(tmp_path, command, monkeypatch):
    """Checks DIGITS with changes; returns the exit code and the findings by level."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words, **changes):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**DIGITS, **changes}))
        done = command("check", "c.yaml", "--json", *words)
        found = {"ok": [], "warning": [], "problem": []}
        for each in json.loads(done.stdout)["findings"]:
            found[each["level"]].append(each["text"])
        assert not (tmp_path / "runs").exists()
        return done.returncode, found

    return run


def test_a_sound_config_passes(check):
    code, found = check()
    assert code == 0 and not found["problem"] and not found["warning"], found
    text = "\n".join(found["ok"])
    assert "1,438 examples of inputs float32 [64]" in text and "a step needs" in text


def test_all_problems_are_found_together(check, tmp_path):
    (tmp_path / "file").touch()
    code, found = check(
        "--workdir=file/run",
        epoch=3,
        learning_rate="fast",
        batch_size=65,
        grad_accumulation_steps=2,
        model_params={"input_dim": 65, "num_classes": 5},
        loggers=["jsonl", "nolog", {"wandb": {"mode": "online"}}],
        callbacks=["early_stoping"],
        snapshot={"monitor": "eval/nothing"},
    )
    assert code == 2
    for said in (
        "epoch: expected a known key",
        "learning_rate: expected a number",
        "batch_size: expected a multiple of grad_accumulation_steps (2), got 65",
        "column 'labels': expected class numbers from 0 to 4, got 5",
        "model_params.input_dim: expected 64",
        "got 'nolog'",
        "expected credentials for api.wandb.ai",
        "use 'early_stopping'",
        "--workdir: expected a folder that can be written to",
    ):
        assert any(said in text for text in found["problem"]), (said, found["problem"])
    assert len(found["problem"]) == 9, found["problem"]


ONE = {
    "devices": ({"strategy": "mesh", "mesh": {"data": 3}}, "problem", "3 devices"),
    "no GPU": ({"strategy": "gpu"}, "problem", "gpu"),
    "monitor": ({"snapshot": {"monitor": "eval/nothing"}}, "problem", "snapshot.monitor"),
    "unknown data": ({"data_name": "digit"}, "problem", "use 'digits'"),
    "unknown model": ({"model_name": "SimpleMLPP"}, "problem", "SimpleMLP"),
    "unknown hyperparameter": ({"model_params": {"hiden_dim": 3}}, "problem", "hidden_dim"),
    "large batch": ({"batch_size": 2000}, "warning", "batch_size: 2000 is more than"),
}


@pytest.mark.parametrize(("changes", "level", "said"), ONE.values(), ids=ONE)
def test_each_kind_of_problem_is_named(changes, level, said, check):
    code, found = check(**changes)
    assert code == (2 if level == "problem" else 0)
    assert any(said in text for text in found[level]), found


def test_a_step_that_does_not_fit_is_found_before_it_runs(check):
    assert check("--memory=1MB")[0] == 0
    code, found = check("--memory=10KB")
    assert code == 2 and "batch_size: expected a step that fits in 10.00 KB" in found["problem"][0]


def test_batch_norm_under_accumulation_is_a_warning(check, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "normed.py").write_text(NORMED)
    normed = {"model_name": "Normed", "model_params": {}, "batch_size": 64}
    assert not check(**normed)[1]["warning"], "the control: without accumulation"
    code, found = check(**normed, grad_accumulation_steps=4)
    assert code == 0 and "BatchNorm normalizes each micro-batch of 16" in found["warning"][0]


NORMED = """\
from dataclasses import dataclass
from flax import linen as nn
from aetheria import Classifier, register_model


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10)(nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x)))


@register_model("Normed")
@dataclass(frozen=True)
class Normed(Classifier):
    num_classes = 10

    def network(self):
        return Net()
"""


def test_credentials_are_found_and_never_printed(check, monkeypatch, tmp_path):
    online = {"loggers": [{"wandb": {"mode": "online"}}]}
    assert check(**online)[0] == 2
    assert check(loggers=[{"wandb": {"mode": "offline"}}])[0] == 0
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret-1\n")
    code, found = check(**online)
    assert code == 0 and "secret-1" not in str(found)
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret-2")
    code, found = check(**online)
    assert code == 0 and "secret-2" not in str(found)


@pytest.mark.slow
def test_a_deep_check_finds_what_only_a_step_shows(command, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "crashes.py").write_text(CRASHES)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**DIGITS, "model_name": "Crashes"}))
    shallow, deep = command("check", "c.yaml"), command("check", "c.yaml", "--deep")
    assert (shallow.returncode, deep.returncode) == (0, 2), deep.stdout
    assert "FAIL  deep" in deep.stdout
    sound = command("check", "c.yaml", "--deep", "--set=model_name=SimpleMLP")
    assert sound.returncode == 0 and "two steps, an evaluation and a save" in sound.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "models"]


def test_the_report_is_text_too(check, command):
    check()
    done = command("check", "c.yaml", "--set=batch_size=0")
    assert done.returncode == 2 and "FAIL  config" in done.stdout
    assert "problems: 1, warnings: 0, in " in done.stdout
