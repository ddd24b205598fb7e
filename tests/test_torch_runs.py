"""Runs with strategy torch: the engine, the data, the events and the snapshots are the same."""

import shutil

import numpy as np
import pytest
import yaml
from support.long import covering, only_long
from support.runs import DIGITS, without_rate

torch = pytest.importorskip("torch")

from aetheria.snapshots import read_snapshot  # noqa: E402
from aetheria.snapshots.finding import find_snapshot  # noqa: E402
from aetheria.snapshots.snapshot_files import write_snapshot  # noqa: E402

# The bits that are compared here are of PyTorch, which compiles nothing.
PLAIN = {
    **DIGITS,
    "model_params": {"input_dim": 64, "hidden_dim": 32, "num_layers": 2, "num_classes": 10},
    "ema_decay": 0.9,
    "grad_accumulation_steps": 2,
}


def newest(run_dir):
    return read_snapshot(find_snapshot(str(run_dir), []))


def test_the_engine_tells_the_same_story_over_both(train):
    """Same steps, same cursor, same events. Numbers differ by rounding, and by what a ReLU makes of
    it after some steps; that they are the same otherwise, test_parity shows.
    """
    runs = {s: train(s, **{**PLAIN, "strategy": s}) for s in ("cpu", "torch")}
    lines = {s: without_rate(run.metrics) for s, run in runs.items()}
    assert len(lines["cpu"]) == len(lines["torch"]) > 5
    for one, other in zip(lines["cpu"], lines["torch"], strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (pytest.approx(value, rel=2e-2) if "." in str(value) else value)
    snapshots = {s: newest(run.run_dir) for s, run in runs.items()}
    one, other = snapshots["cpu"], snapshots["torch"]
    assert list(one.arrays) == list(other.arrays), "one layout"
    for path, array in one.arrays.items():
        assert (array.shape, array.dtype) == (other.arrays[path].shape, other.arrays[path].dtype)
        np.testing.assert_allclose(array, other.arrays[path], atol=2e-2, err_msg=path)
    assert one.record.progress == other.record.progress
    assert one.record.listeners == other.record.listeners
    assert one.record.run.example_spec == other.record.run.example_spec
    assert "torch" in runs["torch"].summary["versions"]


@pytest.mark.parametrize(
    "order",
    covering({"cpu-torch": ("cpu", "torch"), "torch-cpu": ("torch", "cpu")}, default=["cpu-torch"]),
)
def test_a_run_goes_on_in_the_other_framework(train, order):
    """2 epochs in one, 2 in the other, against 4 in one; the optimizer's state goes along."""
    first, second = order
    config = {**PLAIN, "epochs": 4}
    whole = train("whole", **{**config, "strategy": first})
    cut = train("moved", **{**config, "strategy": first}, stop_at_step=46)
    assert cut.exit_code == 75
    shutil.copytree(cut.run_dir, cut.run_dir.with_name("lost"))
    moved = train("moved", **{**config, "strategy": second}, resume="latest")
    assert moved.summary["steps"] == whole.summary["steps"] == 92
    final = {name: run.summary["final"] for name, run in (("w", whole), ("m", moved))}
    for name in ("train/loss", "eval/loss"):
        assert abs(final["m"][name] - final["w"][name]) <= 1e-4
    # The control: without the optimizer's moments it is another run.
    saved = newest(cut.run_dir.with_name("lost"))
    lost = {p: a * 0 if "/mu/" in p or "/nu/" in p else a for p, a in saved.arrays.items()}
    shutil.rmtree(saved.path)
    write_snapshot(saved.path, lost, saved.record)
    lost = train("lost", **{**config, "strategy": second}, resume="latest").summary["final"]
    assert abs(lost["train/loss"] - final["w"]["train/loss"]) > 1e-4


@pytest.mark.parametrize("where", covering([7, 23, 30], default=[30]))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(train, where):
    config = {**DIGITS, "strategy": "torch", "epochs": 2}  # with dropout
    whole = train("whole", **config)
    assert train("cut", **config, stop_at_step=where).exit_code == 75
    cut = train("cut", **config, resume="latest")
    assert cut.summary["params_sha256"] == whole.summary["params_sha256"]
    assert cut.summary["final"] == whole.summary["final"]
    other = train("other", **{**config, "seed": 1})
    assert other.summary["params_sha256"] != whole.summary["params_sha256"], "the control"


def test_accumulation_is_a_memory_setting(train):
    """The last window of an epoch has 29 examples in 4 micro-batches of 16: two of padding."""
    wide = {**PLAIN, "strategy": "torch", "mixed_precision": False}
    losses = [
        train(f"by{n}", **{**wide, "grad_accumulation_steps": n}).summary["final"]["eval/loss"]
        for n in (1, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("policy", covering([True, "compute=float16"], default=["compute=float16"]))
def test_mixed_precision_trains_and_resumes(train, policy):
    config = {**PLAIN, "strategy": "torch", "mixed_precision": policy}
    exact = train("exact", **{**config, "mixed_precision": False})
    whole = train("whole", **config)
    assert train("cut", **config, stop_at_step=30).exit_code == 75
    cut = train("cut", **config, resume="latest")
    assert cut.summary["params_sha256"] == whole.summary["params_sha256"]
    exactly, loss = (run.summary["final"]["eval/loss"] for run in (exact, whole))
    assert 0 < abs(loss - exactly) < 0.05
    arrays = newest(whole.run_dir).arrays
    assert ("loss_scale" in arrays) == (policy is not True)
    assert arrays["params/Dense_0/kernel"].dtype == np.float32


def test_a_dump_of_one_framework_is_explained_by_the_other(train, command):
    """What `debug nan` replays is a state in the common layout."""
    from support.nonfinite_data import BAD

    run = train("bad", **{**BAD, "strategy": "torch"})
    (dump,) = (run.run_dir / "dumps").iterdir()
    done = command("debug", "nan", dump)
    assert done.returncode == 0, done.stderr
    assert "inputs" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reproducibility": "elastic"}, "strategy: expected a strategy other than 'torch'"),
        ({"mesh": {"fsdp": 2}}, "mesh: expected none, or data=1, with strategy 'torch'"),
        ({"mesh": {"data": 2}}, "mesh: expected none, or data=1, with strategy 'torch'"),
        (
            {"mixed_precision": "params=bfloat16"},
            "mixed_precision: expected with strategy 'torch' parameters of float32",
        ),
    ],
)
def test_what_the_strategy_cannot_do_is_one_line(command, tmp_path, changes, message):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**DIGITS, "strategy": "torch", **changes}))
    done = command("train", "c.yaml", "--workdir=run")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@only_long
def test_prove_resume_holds_for_it(cli, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**DIGITS, "strategy": "torch"}))
    done = cli("prove", "resume", "c.yaml", "--steps=12", "--kill-at=5", as_user=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bits" in done.stdout
    done = cli("prove", "resume", "c.yaml", "--steps=12", "--kill-at=5", "--drop=rng", as_user=True)
    assert done.returncode == 1, "the control: dropout's masks hang on the key"
    assert "not the same" in done.stdout
