"""Runs with several real processes, started as a user would start them."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from support.long import covering, covering_rows, long_or, only_long
from support.processes import ELASTIC, ends, own_lines

from aetheria import Predictor
from aetheria.data.datasets import digits
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.store import list_snapshots

pytestmark = [pytest.mark.slow, pytest.mark.uncached]


def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(train_once):
    """Trains on one device of this process, each config once: the folder of the run."""
    made = {}

    def run(name, **changes):
        if name not in made:
            done = train_once(name, **{**ELASTIC, "mesh": {"data": 1}, **changes})
            assert done.exit_code == 0
            made[name] = done.run_dir
        return made[name]

    return run


def wait_for_training(tmp_path, processes):
    """Until the first report is written."""
    file, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), ends(processes)
        time.sleep(0.1)


def assert_the_files_of_one(two, one):
    """The bits, the files and the numbers of a run in one process."""
    lines = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    assert len({(line["step"], line["split"]) for line in lines}) == len(lines)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, two)]
    for name in ("params_sha256", "steps", "examples_seen", "num_eval_examples", "final"):
        assert summaries[0][name] == summaries[1][name]
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())


@only_long  # what torchrun starts does the same, and other runs here start two by options
def test_two_processes_give_the_bits_and_the_files_of_one(start, tmp_path, uninterrupted):
    codes, texts = ends(start(2, devices_each=2))
    assert codes == [0, 0], texts
    assert_the_files_of_one(tmp_path / "run", uninterrupted("elastic"))


def run_with_torchrun(folder, *options, devices_each=1, **changes):
    """Trains ELASTIC with two processes that torchrun starts."""
    pytest.importorskip("torch", reason="torch is not installed, and with it torchrun")
    config = {**ELASTIC, "mesh": {"data": 2}, **changes}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command = [sys.executable, "-m", *launcher, "-m", "aetheria", "train", "config.yaml"]
    devices = f"--xla_force_host_platform_device_count={devices_each}"
    return subprocess.run(
        [*command, "--workdir=run", *options],
        cwd=folder,
        env={**os.environ, "XLA_FLAGS": devices},
        capture_output=True,
        text=True,
        timeout=240,
    )


@only_long  # what torchrun starts, the run below that goes on in one process has too
def test_torchrun_gives_the_bits_and_the_files_of_one_process(tmp_path, uninterrupted):
    # A device each: the mesh is there only if the two have found each other.
    done = run_with_torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_the_files_of_one(tmp_path / "run", uninterrupted("elastic"))


SIGNALS = {
    f"{number.name}-{rank}": (number, rank)
    for number in (signal.SIGTERM, signal.SIGUSR1)
    for rank in (0, 1)
}


@pytest.mark.parametrize(("number", "rank"), covering_rows(SIGNALS, default=[]))  # see chaos/
def test_a_signal_to_one_process_stops_all_at_one_step(start, tmp_path, number, rank):
    processes = start(2, epochs=5000)
    wait_for_training(tmp_path, processes)
    processes[rank].send_signal(number)
    codes, texts = ends(processes)
    assert codes == [75, 75], texts
    stopped = summary(tmp_path / "run")
    assert (stopped["status"], stopped["reason"]) == ("preempted", f"signal {number.name}")
    newest = list_snapshots(tmp_path / "run" / "checkpoints")[-1]
    assert newest.step == stopped["steps"]


LAYOUTS = {
    "fsdp over both": {"fsdp": 4},
    "data over both": {"data": 2, "fsdp": 2},
}


def assert_samples_are_predictions(run, step):
    """What was shown at a step is what the snapshot of that step predicts."""
    lines = (run / "samples.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] == step]
    assert [row["index"] for row in rows] == [*range(8)]
    inputs = digits().eval.read(np.arange(8))["inputs"]
    predictor = Predictor(checkpoint_path=run / "checkpoints" / f"snapshot_step{step}")
    found = predictor.predict(inputs).argmax(-1).tolist()
    assert [row["prediction"] for row in rows] == found


@pytest.mark.parametrize("mesh", covering(LAYOUTS, default=["fsdp over both"]))
def test_a_run_in_two_processes_goes_on_in_two_and_in_one_with_the_bits_of_one_device(
    start, tmp_path, uninterrupted, mesh
):
    """Its state is in parts over the two, where the first shows it to a listener, and whole in the
    one. Where torchrun is installed, it starts the first two.
    """
    cadence = {"eval_every_steps": 10, "snapshot": {"every_steps": 10}}
    changes = {**cadence, "callbacks": ["sample_predictions"]}
    parts = {"devices_each": 2, "mesh": mesh, **changes}
    if importlib.util.find_spec("torch"):
        done = run_with_torchrun(tmp_path, "--stop-at-step=21", **parts)
        assert done.returncode == 1, done.stderr  # torchrun's, whatever its processes end with
    else:
        codes, texts = ends(start(2, options=["--stop-at-step=21"], **parts))
        assert codes == [75, 75], texts
    stopped = summary(tmp_path / "run")
    assert (stopped["exit_code"], stopped["steps"]) == (75, 21)
    assert stopped["detached_listeners"] == {}
    assert_samples_are_predictions(tmp_path / "run", step=20)
    if long_or(0, 1):  # two to two, the fast mesh below does too
        codes, texts = ends(start(2, options=["--resume=latest", "--stop-at-step=30"], **parts))
        assert codes == [75, 75], texts
    codes, texts = ends(start(1, options=["--resume=latest"], mesh={"data": 1}, **changes))
    assert codes == [0], texts
    runs = (tmp_path / "run", uninterrupted("evaluated", **cadence))
    moved, one = (summary(run) for run in runs)
    for name in ("params_sha256", "steps", "examples_seen", "num_eval_examples", "final"):
        assert moved[name] == one[name]
    saved = [read_snapshot(run / "checkpoints" / "snapshot_ep2") for run in runs]
    arrays = [{path: a.tobytes() for path, a in each.arrays.items()} for each in saved]
    assert arrays[0] == arrays[1]


FAST = {
    "data": {"data": 4},
    "fsdp over both": {"fsdp": 4},
    "data over both": {"data": 2, "fsdp": 2},
    "tensor over both": {"tensor": 4},
    "all": {"fsdp": 2, "tensor": 2},
}


@pytest.mark.parametrize("mesh", covering(FAST, default=["all"]))
def test_a_fast_mesh_over_two_processes_learns_what_one_device_learns(
    start, tmp_path, uninterrupted, mesh
):
    fast = {"reproducibility": "fast", "learning_rate": 1e-4, "epochs": 1}
    parts = {"devices_each": 2, "mesh": mesh}
    codes, texts = ends(start(2, options=["--stop-at-step=10"], **parts, **fast))
    assert codes == [75, 75], texts
    codes, texts = ends(start(2, options=["--resume=latest"], **parts, **fast))
    assert codes == [0, 0], texts
    whole = uninterrupted("fast", **fast)
    for name in ("steps", "examples_seen", "num_eval_examples"):
        assert summary(tmp_path / "run")[name] == summary(whole)[name]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len({(line["step"], line["split"]) for line in lines}) == len(lines), "each once"
    for name, value in summary(whole)["final"].items():
        assert summary(tmp_path / "run")["final"][name] == pytest.approx(value, abs=1e-4), name
    runs = (tmp_path / "run", whole)
    two, one = (read_snapshot(run / "checkpoints/snapshot_ep1") for run in runs)
    assert set(two.arrays) == set(one.arrays)
    for path in one.arrays:
        np.testing.assert_allclose(
            two.arrays[path], one.arrays[path], rtol=0, atol=1e-5, err_msg=path
        )
    # The control: what was learnt is far more than that.
    kernel = "params/Dense_0/kernel"
    early = read_snapshot(tmp_path / "run/checkpoints/snapshot_step10").arrays[kernel]
    assert abs(early - one.arrays[kernel]).max() > 1e-4


@only_long  # how all agree on a stop, chaos/test_signals shows
def test_a_listener_stops_all_at_the_step_at_which_it_stops_one(start, tmp_path):
    stopping = [{"early_stopping": {"patience": 1, "min_delta": 100.0}}]
    codes, texts = ends(start(2, epochs=20, callbacks=stopping))
    assert codes == [0, 0], texts
    # The first evaluation, at step 23, is the best; the second does not improve on it. That one
    # process ends there too, test_early_stopping proves.
    assert summary(tmp_path / "run")["steps"] == 46


def test_a_mistake_is_said_once_and_ends_all(start, tmp_path):
    codes, texts = ends(start(2, model_params={"input_dim": 3, "num_classes": 10}))
    assert codes == [2, 2]
    assert [len(own_lines(text)) for text in texts] == [1, 0]
    assert "model_params.input_dim: expected 64" in texts[0]
    assert not (tmp_path / "run").exists()


def test_a_missing_process_is_named_by_the_others(start, tmp_path):
    codes, texts = ends(start(3, ranks=[0, 2], options=["--join-timeout=3"]))
    assert codes == [2, 2]
    for text in texts:
        (line,) = own_lines(text)
        assert "expected 3 processes" in line and "got none for process 1" in line
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_ends_the_other_which_names_it(start, tmp_path):
    processes = start(2, epochs=5000, options=["--heartbeat-timeout=10"])
    wait_for_training(tmp_path, processes)
    processes[1].kill()
    started_at = time.monotonic()
    codes, texts = ends(processes)
    assert codes[0] not in (0, 2, 75) and codes[1] == -signal.SIGKILL
    assert time.monotonic() - started_at < 60
    by_us = "process 1 of 2 did not respond" in texts[0]
    by_heartbeat = "stopped sending heartbeats" in texts[0]  # where it waits outside a step
    assert by_us or by_heartbeat, texts[0]
