"""`auto_micro_batch`: how many micro-batches fit a device's memory, and the run that they give."""

import pytest

import aetheria
from aetheria.build import micro_batch
from aetheria.cli.main import main
from aetheria.errors import AetheriaError

LIMIT = 500_000  # bytes; a step of 1,024 examples needs about twice as much


@pytest.fixture(autouse=True)
def small_device(monkeypatch):
    monkeypatch.setattr(micro_batch, "device_limit", lambda device: LIMIT)


def train(workdir, **options):
    settings = {
        "model": "SimpleMLP",
        "model_params": {"hidden_dim": 64, "num_classes": 10, "dropout": 0.5},
        "data": "digits",
        "batch_size": 1024,
        "strategy": "cpu",
        "epochs": 2,
    }
    return aetheria.train(workdir=workdir, **{**settings, **options})


def test_it_is_the_run_that_the_number_gives(tmp_path, capsys, monkeypatch):
    chosen = train(tmp_path / "chosen", auto_micro_batch=True, stop_at_step=2)
    steps = chosen.config.grad_accumulation_steps
    assert 1 < steps < 64
    said = f"grad_accumulation_steps: {steps}; a step needs "
    assert said in capsys.readouterr().out
    assert f'"grad_accumulation_steps": {steps},' in (chosen.run_dir / "config.json").read_text()
    # More memory now: a resumed run keeps its number all the same.
    monkeypatch.setattr(micro_batch, "device_limit", lambda device: 10**9)
    chosen = chosen.resume()
    assert f"grad_accumulation_steps: {steps}, as in the snapshot" in capsys.readouterr().out
    by_hand = train(tmp_path / "by_hand", grad_accumulation_steps=steps)
    assert chosen.summary["params_sha256"] == by_hand.summary["params_sha256"]
    other = train(tmp_path / "other", auto_micro_batch=True)  # the control
    assert other.config.grad_accumulation_steps == 1
    assert other.summary["params_sha256"] != by_hand.summary["params_sha256"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_size": 1023}, "expected a step that fits in 500.00 KB on each device, got one"),
        (
            {"model_params": {"hidden_dim": 4096, "num_classes": 10}, "batch_size": 64},
            "MB at least, in micro-b",
        ),
        ({"reproducibility": "elastic"}, "expected reproducibility fast"),
    ],
)
def test_what_does_not_fit_is_one_line(options, line, tmp_path):
    with pytest.raises(AetheriaError, match=f"^--auto-micro-batch: .*{line}"):
        train(tmp_path / "run", auto_micro_batch=True, **options)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_compiles_nothing(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text("model_name: SimpleMLP\ndata_name: digits\n")
    assert main(["train", str(file), "--dry-run", "--auto-micro-batch"]) == 2
    assert "leave one out" in capsys.readouterr().err
