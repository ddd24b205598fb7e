"""Several ranks with strategy torch, as `torchrun` starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import yaml
from support.long import covering, only_long
from support.runs import DIGITS, TESTS

torch = pytest.importorskip("torch")

from aetheria.snapshots import read_snapshot  # noqa: E402
from aetheria.snapshots.finding import find_snapshot  # noqa: E402

pytestmark = pytest.mark.slow

# Batch norm, averages, accumulation, and at each end of an epoch a window with padding: the
# statistics and the weights are those of all ranks, or the parameters would differ.
CONFIG = {
    "model_name": "SimpleCNN",
    "model_params": {"conv_dims": [4], "hidden_dim": 8, "batch_norm": True},
    "data_name": "support.image_data:images",
    "epochs": 1,
    "batch_size": 64,
    "grad_accumulation_steps": 2,
    "learning_rate": 0.003,
    "ema_decay": 0.9,
    "strategy": "torch",
    "loggers": ["jsonl"],
    "mixed_precision": "params=float64,compute=float64,output=float64",
}


@contextmanager
def starter(tmp_path):
    """Starts a run: `start(2, "two", "--stop-at-step=5", epochs=3)`; with torchrun if several."""
    started = []

    def run(count, name, *options, **changes):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**CONFIG, **changes}))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        launcher = ["torch.distributed.run", f"--nproc_per_node={count}", f"--master_port={port}"]
        launcher = [*launcher, "-m", "aetheria"] if count > 1 else ["aetheria"]
        command = [sys.executable, "-m", *launcher, "train", str(file), f"--workdir={name}"]
        environ = {
            **os.environ,
            "XLA_FLAGS": "",
            "JAX_ENABLE_X64": "1",
            "PYTHONPATH": str(TESTS),
        }
        process = subprocess.Popen(
            [*command, *options],
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as run:
        yield run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder in which one rank has trained `one`."""
    folder = tmp_path_factory.mktemp("whole")
    with starter(folder) as run:
        code, _, err = finish(run(1, "one"))
    assert code == 0, err
    return folder


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def arrays_of(tmp_path, name):
    return read_snapshot(find_snapshot(str(tmp_path / name), [])).arrays


def far_apart(one, other):
    """The largest relative difference of a leaf."""
    assert list(one) == list(other)
    norm = lambda a: float(np.linalg.norm(np.ravel(np.asarray(a, np.float64))))
    return max(norm(one[p] - other[p]) / max(norm(one[p]), 1e-300) for p in one if p != "base_key")


def test_two_ranks_give_the_parameters_of_one(start, tmp_path, whole):
    code, _, err = finish(start(2, "two"))
    assert code == 0, err
    one, two = arrays_of(whole, "one"), arrays_of(tmp_path, "two")
    assert one["params/Conv_0/kernel"].dtype == np.float64
    assert 0 < far_apart(one, two) <= 1e-12
    folders = (whole / "one", tmp_path / "two")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    for name in ("steps", "examples_seen", "num_eval_examples"):
        assert summaries[0][name] == summaries[1][name]
    for name, value in summaries[0]["final"].items():
        assert summaries[1]["final"][name] == pytest.approx(value, rel=1e-10)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert len({(json.loads(x)["step"], json.loads(x)["split"]) for x in lines}) == len(lines)


@only_long
def test_another_batch_size_gives_other_parameters(start, tmp_path, whole):
    """The control of the test above."""
    code, _, err = finish(start(1, "other", batch_size=32))
    assert code == 0, err
    assert far_apart(arrays_of(whole, "one"), arrays_of(tmp_path, "other")) > 1e-3


# By default two facts stand for it: the state of two ranks is that of one (above), and a run goes
# on in the other framework (test_torch_runs).
@only_long
def test_a_run_of_two_ranks_goes_on_with_one_and_with_jax(start, tmp_path, whole):
    code, _, err = finish(start(2, "moved", "--stop-at-step=20"))
    assert code in (1, 75), err  # torchrun makes 1 of what its processes end with
    assert json.loads((tmp_path / "moved" / "summary.json").read_text())["exit_code"] == 75
    code, _, err = finish(start(1, "moved", "--resume=latest", strategy="cpu"))
    assert code == 0, err
    assert far_apart(arrays_of(whole, "one"), arrays_of(tmp_path, "moved")) <= 1e-9


@only_long
def test_a_bad_global_batch_of_one_rank_is_skipped_by_all(start, tmp_path):
    """The bad example is in the second half of a micro-batch: the second rank's."""
    bad = {
        **{key: DIGITS[key] for key in ("model_name", "model_params")},
        "data_name": "support.nonfinite_data:poisoned",
        "data_params": {"micro": 0, "row": 30, "micro_batch": 32},
        "epochs": 1,
        "ema_decay": None,
    }
    bad["model_params"] = {**bad["model_params"], "dropout": 0.0}
    for count, name in ((1, "one"), (2, "two")):
        code, _, err = finish(start(count, name, **bad))
        assert code == 0, err
    one, two = arrays_of(tmp_path, "one"), arrays_of(tmp_path, "two")
    assert one["counters"].tolist() == two["counters"].tolist()
    assert two["counters"].tolist()[:4] == [23, 1, 0, 13]
    assert far_apart(one, two) <= 1e-12


@only_long
def test_three_ranks_resume_bit_for_bit(start, tmp_path):
    """With three, a sum depends on the order: gradients must lie in it where they always lay."""
    language = {
        "model_name": "Transformer",
        "model_params": {"num_layers": 2, "width": 32, "max_length": 16},
        "data_name": "python_docs",
        "data_params": {"length": 16},
        "batch_size": 24,
        "max_steps": 6,
        "mixed_precision": False,
    }
    digests = {}
    for count, name, options in (
        (3, "whole", []),
        (3, "cut", ["--stop-at-step=3"]),
        (3, "cut", ["--resume=latest"]),
        (2, "other", []),
    ):
        code, _, err = finish(start(count, name, *options, **language))
        assert code == (1 if "--stop-at-step=3" in options else 0), err
        digests[name] = json.loads((tmp_path / name / "summary.json").read_text())["params_sha256"]
    assert digests["cut"] == digests["whole"]
    assert digests["other"] != digests["whole"], "the control: another order has other bits"


def ranks_of(launcher):
    """The processes that torchrun started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True
    )
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.parametrize("victim", covering([0, 1], default=[]))
def test_a_killed_rank_ends_all(start, tmp_path, victim):
    process = start(2, "run", epochs=5000)
    file, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    ranks = ranks_of(process)
    os.kill(ranks[victim], signal.SIGKILL)
    code, _, _ = finish(process)
    assert code != 0
    gone = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in ranks):
        assert time.monotonic() < gone
        time.sleep(0.2)


@only_long  # that a mistake of several processes is said once, test_processes shows
def test_a_micro_batch_that_does_not_divide_is_one_line(start):
    code, _, err = finish(start(2, "run", batch_size=66, grad_accumulation_steps=2))
    assert code != 0
    said = [line for line in err.splitlines() if line.startswith("strategy: ")]
    assert said == [
        "strategy: expected a micro-batch that divides over 2 ranks, got 33 (batch_size / "
        "grad_accumulation_steps); change one of these, or start fewer processes"
    ]
