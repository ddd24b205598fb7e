"""What a step would write is finite, or it is not taken; an evaluation that is not says where."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from support.long import covering, covering_rows

from aetheria.snapshots import read_snapshot

PROJECT = Path(__file__).parent / "project"
SHORT = {"data_name": "small_numbers", "batch_size": 16, "max_steps": 16, "loggers": ["jsonl"]}
SHORT |= {"max_consecutive_skips": 4, "snapshot": {"every_steps": 2, "keep_last": 20}}
LARGE = {"data_params": {"large": 1.0}}  # in the window of step 13
DEVICES = {
    "one": {"strategy": "cpu"},
    "mesh": {"strategy": "mesh", "mesh": {"data": 8}},
    "elastic": {"strategy": "mesh", "mesh": {"data": 2}, "reproducibility": "elastic", "lanes": 2},
    "torch": {"strategy": "torch"},
}
pytestmark = pytest.mark.optimized

NO_TORCH = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch")


@pytest.fixture
def bad_run(train, tmp_path):
    """Trains into tmp_path/run: (answer, summary, names of the snapshots with a bad leaf)."""

    def call(*, devices="one", **config):
        answer = train("--workdir", "run", **{**SHORT, **DEVICES[devices], **config})
        assert not answer.err, answer.err
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        snapshots = sorted((tmp_path / "run" / "checkpoints").glob("snapshot_*"))
        assert snapshots
        bad = [
            path.name
            for path in snapshots
            for leaf in read_snapshot(path).arrays.values()
            if not np.isfinite(leaf).all()
        ]
        return answer, summary, bad

    return call


# The 7th update of BadUpdate is not finite, and so none after it; the window of step 13 makes
# BadState's state infinite: (exit code, steps, skipped).
CASES = [
    ("BadUpdate", "skip", "one", (3, 10, 4)),
    ("BadUpdate", "halt", "one", (3, 7, 1)),
    ("BadUpdate", "rollback", "one", (3, 10, 4)),
    ("BadUpdate", "skip", "mesh", (3, 10, 4)),
    ("BadUpdate", "rollback", "elastic", (3, 10, 4)),
    ("BadState", "skip", "one", (0, 16, 1)),
    ("BadState", "halt", "one", (3, 13, 1)),
    ("BadState", "rollback", "mesh", (0, 16, 1)),
    ("BadState", "skip", "elastic", (0, 16, 1)),
]


# Each model, each action and each kind of devices.
DEFAULT = [
    *("BadUpdate-halt-one", "BadUpdate-skip-mesh", "BadUpdate-rollback-elastic"),
    *("BadState-skip-one", "BadState-rollback-mesh"),
]


@pytest.mark.parametrize(
    ("model", "action", "devices", "expected"),
    covering_rows({"-".join(case[:3]): case for case in CASES}, default=DEFAULT),
)
def test_an_update_or_a_state_that_is_not_finite_is_never_written(
    bad_run, tmp_path, model, action, devices, expected
):
    answer, summary, bad = bad_run(model_name=model, on_nonfinite=action, devices=devices, **LARGE)
    skipped = summary["skipped"]
    assert (answer.code, summary["steps"], skipped["num_steps"]) == expected
    assert not bad
    assert f"{expected[2]} of {expected[1]} steps (non-finite)" in " ".join(answer.out.split())
    assert (tmp_path / skipped["dump"]).is_dir()
    if answer.code == 3:
        in_a_row = skipped["num_steps"]
        reason = f"non-finite update or model state at step {expected[1]}, {in_a_row} in a row"
        assert summary["reason"] == reason


@pytest.mark.own_programs
@pytest.mark.parametrize("model", ["BadUpdate", "BadState"])
def test_without_the_check_the_snapshots_hold_them(bad_run, monkeypatch, model):
    """The control."""
    monkeypatch.setattr("aetheria.hardware.jax.update.stays_finite", lambda *trees: np.True_)
    _, _, bad = bad_run(model_name=model, **LARGE)
    assert bad


MLP = {"model_name": "BadRate", "data_name": "digits", "batch_size": 64}
MLP |= {"model_params": {"input_dim": 64, "hidden_dim": 8, "num_classes": 10}}
CNN = {"model_name": "SimpleCNN", "data_name": "large_pixel"}
CNN |= {"model_params": {"conv_dims": [2], "hidden_dim": 4, "batch_norm": True}}


@NO_TORCH
@pytest.mark.parametrize(
    ("config", "expected", "check"),
    [(MLP, (3, 10, 4), "_reaches"), (CNN, (0, 16, 1), "_keeps_finite")],
    ids=["update", "statistics"],
)
def test_pytorch_does_not_write_what_is_not_finite_and_would_without_the_check(
    bad_run, monkeypatch, tmp_path, config, expected, check
):
    answer, summary, bad = bad_run(devices="torch", on_nonfinite="rollback", **config)
    assert (answer.code, summary["steps"], summary["skipped"]["num_steps"]) == expected
    assert not bad
    if answer.code == 3:
        assert "update or model state at step 10, 4 in a row" in summary["reason"]
    (tmp_path / "run").rename(tmp_path / "before")
    monkeypatch.setattr(f"aetheria.hardware.torch.update.Update.{check}", lambda *_: True)
    _, _, bad = bad_run(devices="torch", on_nonfinite="skip", **config)
    assert bad, "the control"


def debug(run, dump):
    answer = run("debug", "nan", str(dump), "--project", str(PROJECT))
    return answer, dict(line.split(maxsplit=1) for line in answer.out.splitlines())


@pytest.mark.parametrize("devices", covering(["one", "elastic"], default=["elastic"]))
def test_debug_nan_names_the_update_and_the_state(bad_run, run, tmp_path, devices):
    bad_run(model_name="BadUpdate", on_nonfinite="halt", devices=devices)
    answer, said = debug(run, tmp_path / "run" / "dumps" / "nonfinite_step7")
    assert answer.code == 0 and said["where"].startswith("the optimizer: loss (summed) ")
    assert said["parameter"] == "params/w: its update is the first that is not finite"
    assert "example" not in said
    (tmp_path / "run").rename(tmp_path / "before")
    bad_run(model_name="BadState", on_nonfinite="halt", devices=devices, **LARGE)
    answer, said = debug(run, tmp_path / "run" / "dumps" / "nonfinite_step13")
    assert answer.code == 0 and "nonfinite.py" in said["layer"]
    assert said["state"] == "model_state/mean: its new value is the first that is not finite"
    assert said["example"].endswith("number 105 of the training split")


@pytest.mark.parametrize(
    ("model", "large", "what"),
    [("SoundLinear", 1e6, "loss or gradient"), ("HalfState", 300.0, "update or model state")],
)
def test_a_forward_pass_that_overflows_float16_leaves_a_dump(
    bad_run, run, tmp_path, model, large, what
):
    answer, summary, bad = bad_run(
        model_name=model,
        mixed_precision="compute=float16",
        data_params={"large": large},
        on_nonfinite="halt",
    )
    assert (answer.code, summary["steps"], bad) == (3, 13, [])
    answer, said = debug(run, tmp_path / summary["skipped"]["dump"])
    assert answer.code == 0 and said["example"].endswith("number 105 of the training split")


@pytest.mark.parametrize("devices", ["one", "elastic", pytest.param("torch", marks=NO_TORCH)])
def test_an_evaluation_that_is_not_finite_is_named_counted_and_never_best(train, tmp_path, devices):
    config = {**SHORT, **DEVICES[devices], "max_steps": 4, "eval_every_steps": 2}
    config |= {"data_params": {"large": 1e25, "split": "eval"}}
    config |= {"model_name": "SoundLinear", "loggers": ["jsonl", "csv", "console"]}
    if devices == "torch":
        config |= {"model_name": "BadRate"}
        config |= {"data_name": "bad_eval_digits", "data_params": {}}
        config |= {"model_params": {"input_dim": 64, "hidden_dim": 8, "num_classes": 10}}
    answer = train("--workdir", "run", **config)
    assert answer.code == 0, answer.err
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["split"] == "eval"]
    assert [line["step"] for line in evaluated] == [2, 4]
    sizes = {line["num_nonfinite_examples"] for line in evaluated}
    assert all(line["loss"] is None for line in evaluated) and sizes <= {8, 16}
    assert (tmp_path / "run" / "metrics.csv").read_text().count("num_nonfinite_examples") == 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best"] is None and summary["final"]["eval/loss"] is None
    first = {
        "one": "examples 32 to 47",
        "elastic": "examples 40 to 47",
        "torch": "column inputs of example 41 is not finite",
    }
    assert first[devices] in " ".join(answer.out.split())
    assert "not finite" in answer.out
