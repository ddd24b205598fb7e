"""Both backends side by side: the mathematics in float64, single steps in float32, and traps."""

import json
from pathlib import Path

import pytest
import yaml
from support.long import covering, covering_rows, long_or, only_long

torch = pytest.importorskip("torch")

from aetheria.config.files import load_config, override  # noqa: E402
from aetheria.errors import AetheriaError  # noqa: E402
from aetheria.tools.parity.comparison import Parity  # noqa: E402

MLP = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 64, "hidden_dim": 32, "num_layers": 2, "num_classes": 10},
    "data_name": "digits",
    "batch_size": 64,
}
CNN = {
    "model_name": "SimpleCNN",
    "model_params": {"conv_dims": [4, 8], "hidden_dim": 16, "batch_norm": True},
    "data_name": "support.image_data:images",
    "batch_size": 32,
}
LM = {
    "model_name": "Transformer",
    "model_params": {"vocab_size": 256, "num_layers": 2, "width": 32, "max_length": 32},
    "data_name": "python_docs",
    "data_params": {"length": 32},
    "batch_size": 16,
}
CONFIGS = {"mlp": MLP, "cnn": CNN, "lm": LM}
# AdamW, a warm-up and a cosine are the models' own; the last window of an epoch is padded.
COMMON = {"grad_accumulation_steps": 4, "max_grad_norm": 0.5, "learning_rate": 3e-3}


def compare(name, steps, precision="float64", control=None, project=None, **changes):
    """Every comparison, up to the first that is outside."""
    config = override({**CONFIGS[name], **COMMON, **changes}, [], "test")
    parity = Parity(
        config=config, project=project, steps=steps, precision=precision, control=control
    )
    compared = []
    for comparison in parity.run():
        compared.append(comparison)
        if comparison.first_outside:
            break
    return compared


def largest(compared, steps):
    """The largest difference among the comparisons of these steps."""
    return max(max(c.differences.values()) for c in compared if c.step in steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", covering([*CONFIGS], default=["mlp"]))
def test_many_steps_in_float64_are_the_same(name):
    num_steps = long_or(25, 200)
    compared = compare(name, num_steps, epochs=5, max_steps=200)
    assert compared[-1].first_outside is None
    assert [c.step for c in compared] == [*range(num_steps + 1)]
    assert largest(compared, range(21)) <= 1e-9
    assert largest(compared, range(num_steps + 1)) <= 1e-6
    kinds = {leaf.split("/")[0] for leaf in compared[-1].differences}
    assert kinds >= {"loss", "grads", "params", "opt_state", "base_key", "counters"}
    assert ("model_state" in kinds) == (name == "cnn")
    assert any(max(c.differences.values()) > 0 for c in compared), "two computations, not one"


@pytest.mark.parametrize("name", covering([*CONFIGS], default=["cnn"]))
def test_a_single_step_in_float32_has_the_same_gradients(name):
    (_, compared) = compare(name, 1, precision="float32")
    grads = {k: d for k, d in compared.differences.items() if k.startswith("grads/")}
    assert grads and max(grads.values()) <= 1e-5
    assert max(grads.values()) > 1e-12, "it was float32"
    assert compared.first_outside is None


CAUGHT = {
    ("mlp", "eps"): "params/Dense_0/bias",
    ("cnn", "eps"): "grads/BatchNorm_0/bias",
    ("lm", "eps"): "grads/blocks/attention/out/bias",
    ("mlp", "clip"): "opt_state/1/0/mu/Dense_0/bias",
    ("cnn", "clip"): "opt_state/1/0/mu/BatchNorm_0/bias",
    ("lm", "clip"): "opt_state/1/0/mu/blocks/attention/out/bias",
    ("mlp", "transpose"): "params/Dense_0/kernel",
    ("cnn", "transpose"): "params/Conv_0/kernel",
    ("lm", "transpose"): "params/blocks/attention/qkv/kernel",
}


@pytest.mark.parametrize(
    ("name", "control"),
    covering_rows(
        {"-".join(case): case for case in CAUGHT}, default=["mlp-eps", "cnn-transpose", "mlp-clip"]
    ),
)
def test_each_trap_is_caught_naming_the_leaf(name, control):
    last = compare(name, 20, control=control, max_grad_norm=0.1)[-1]
    assert last.first_outside == CAUGHT[name, control]


def test_a_side_that_took_no_step_is_outside(monkeypatch):
    """Its moments are zero, and what is relative to them has no size: no reason to fall over."""
    from aetheria.tools.parity import comparison as parity

    class Idle(parity.JaxSide):
        def step(self, global_batch):
            before = self._state
            told = super().step(global_batch)
            self._state = before
            return told

    monkeypatch.setattr(parity, "JaxSide", Idle)
    last = compare("mlp", 3)[-1]
    assert last.step == 1 and last.first_outside == "opt_state/1/0/count"


MODELS = """
from dataclasses import dataclass
import optax
from flax import linen as nn
from aetheria import SGD, Adam, AdamW, Classifier, Lion, Optimizer, register_model
from aetheria.models.mlp import SimpleMLP

@register_model("Ruled")
@dataclass(frozen=True)
class Ruled(SimpleMLP):
    rule: str = "adam"
    constant: bool = False

    def optimizer(self, total_steps):
        rules = {
            "adam": Adam(b1=0.8),
            "adamw": AdamW(weight_decay=0.1, eps=1e-6, decay_mask="kernel$"),
            "sgd": SGD(),
            "momentum": SGD(momentum=0.9),
            "nesterov": SGD(momentum=0.9, nesterov=True),
            "lion": Lion(weight_decay=0.1, decay_mask="Dense_1"),
        }
        schedule = optax.exponential_decay(self.learning_rate, 10, 0.9)
        return Optimizer(
            rules[self.rule],
            self.learning_rate if self.constant else schedule,
            max_grad_norm=self.max_grad_norm,
            ema_decay=self.ema_decay,
        )

@register_model("OptaxAlone")
@dataclass(frozen=True)
class OptaxAlone(SimpleMLP):
    def optimizer(self, total_steps):
        return optax.adam(self.learning_rate)

class Ten(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10)(x)

@register_model("NoTwin")
@dataclass(frozen=True)
class NoTwin(Classifier):
    input_dim: int
    hidden_dim: int
    num_layers: int
    num_classes: int
    dropout: float = 0.0

    def network(self):
        return Ten()
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ruled.py").write_text(MODELS)
    return tmp_path


RULES = {
    f"{rule}-{how}": (rule, how)
    for rule in ("adam", "adamw", "sgd", "momentum", "nesterov", "lion")
    for how in ("scheduled", "constant, averaged")
}


@pytest.mark.parametrize(
    ("rule", "how"),
    covering_rows(RULES, default=["nesterov-constant, averaged", "lion-scheduled"]),
)
def test_every_rule_is_the_same_in_both(project, rule, how):
    params = {**MLP["model_params"], "rule": rule, "constant": how != "scheduled"}
    changes = {"ema_decay": 0.99} if how != "scheduled" else {}
    compared = compare(
        "mlp", 30, project=project, model_name="Ruled", model_params=params, **changes
    )
    assert compared[-1].first_outside is None
    assert any("averaged_params" in leaf for leaf in compared[-1].differences) == bool(changes)
    moved = compared[-1].differences
    assert moved["params/Dense_0/kernel"] <= 1e-9


def test_regression_and_dropout_and_other_shapes_are_the_same():
    regression = {"input_dim": 10, "hidden_dim": 8, "dropout": 0.5}
    assert not compare("mlp", 10, data_name="diabetes", model_params=regression)[
        -1
    ].first_outside, "dropout is left out: each library draws other masks"
    if long_or(0, 1):
        plain = {"conv_dims": [4], "hidden_dim": 8}
        assert not compare("cnn", 5, model_params=plain)[-1].first_outside
    untied = {**LM["model_params"], "tied_embeddings": False, "num_layers": 1}
    assert not compare("lm", 5, model_params=untied, remat="full")[-1].first_outside


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("OptaxAlone", "expected with 'torch' a model whose optimizer is an aetheria Optimizer"),
        (
            "NoTwin",
            "expected with 'torch' a model with a PyTorch counterpart, got NoTwin",
        ),
    ],
)
def test_a_model_that_has_no_counterpart_is_refused(project, model, message):
    with pytest.raises(AetheriaError, match=message):
        compare("mlp", 1, project=project, model_name=model)


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "mlp.yaml"
    file.write_text(yaml.safe_dump({**MLP, **COMMON}))
    assert load_config(file).model_name == "SimpleMLP"
    return str(file)


def test_the_command_says_what_it_found(command, config_file):
    done = command("parity", config_file, "--steps", "5")
    assert done.returncode == 0, done.stderr
    assert "parity: 5 steps in float64, the same within tolerance" in done.stdout
    done = command("parity", config_file, "--steps", "5", "--control", "transpose", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["control"] == "transpose" and report["within"] is False
    assert report["notes"] == []
    assert report["first_outside"]["leaf"] == "params/Dense_0/kernel"
    assert report["first_outside"]["step"] == 0


@only_long
def test_the_command_notes_that_dropout_is_left_out(cli, config_file):
    done = cli(
        *("parity", config_file, "--precision", "float32", "--json"),
        *("--set", "model_params.dropout=0.3"),
    )
    report = json.loads(done.stdout)
    assert report["notes"] == ["dropout 0.3 is left out: each library draws its own masks"]
    assert report["within"] is True and [s["step"] for s in report["steps"]] == [0, 1]
    assert "grads/Dense_0/kernel" in report["steps"][1]["differences"]


def test_its_json_is_json_whatever_the_difference(capsys, monkeypatch, config_file):
    from aetheria.tools.parity import comparison as parity
    from aetheria.tools.parity.command import ParityCommand

    monkeypatch.setattr(parity, "_relative", lambda *_: float("nan"))
    assert ParityCommand(config_file=Path(config_file), steps=1, as_json=True).execute() == 1
    no_constant = lambda name: pytest.fail(f"{name} is no JSON")
    report = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    assert report["first_outside"]["difference"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps: expected a number of 1 or more, got '0'"),
        (["--control", "magic"], "--control: expected one of eps, clip, transpose, got 'magic'"),
        (
            ["--control", "clip", "--set", "max_grad_norm=0"],
            "--control clip: expected a gradient that is clipped, got max_grad_norm 0",
        ),
        (["--set", "model_name=Nope"], "model: expected one of SimpleCNN, SimpleMLP"),
    ],
)
def test_a_wrong_request_is_one_line(cli, config_file, arguments, message):
    done = cli("parity", config_file, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
