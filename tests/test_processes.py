"""Runs with several real processes, started as a user would start them."""

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
from conftest import DIGITS

from aetheria.snapshots import read_snapshot
from aetheria.snapshots.store import list_snapshots
from aetheria.tools.prove.runs import Place

pytestmark = pytest.mark.slow

LAST = ("two", "run")
ELASTIC = {**DIGITS, "reproducibility": "elastic", "strategy": "mesh", "loggers": ["jsonl"]}


@pytest.fixture
def start(tmp_path):
    """Starts the processes of a run: `start(2, epochs=3, options=[...])`."""
    started = []

    def run(count, *, devices_each=1, options=(), ranks=None, **changes):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({**ELASTIC, **changes}))
        groups = list(Place(count, count).options())
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}",
        }
        processes = []
        for rank in range(count) if ranks is None else ranks:
            command = [sys.executable, "-m", "aetheria", "train", str(file), "--workdir=run"]
            processes.append(
                subprocess.Popen(
                    [*command, *groups[rank], *options],
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        started.extend(processes)
        return processes

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()


def ends(processes):
    """Exit codes and error output of processes, when all have ended."""
    texts = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], texts


def own_lines(text):
    """What the software itself says; the collective library prints its connections."""
    return [line for line in text.splitlines() if line and not line.startswith("[Gloo]")]


def summary(tmp_path):
    return json.loads((tmp_path / "run" / "summary.json").read_text())


def wait_for_training(tmp_path, processes):
    """Until the first report is written."""
    file, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), ends(processes)
        time.sleep(0.1)


def test_two_processes_give_the_bits_and_the_files_of_one(start, tmp_path):
    codes, texts = ends(start(2, devices_each=2))
    assert codes == [0, 0], texts
    two = summary(tmp_path)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len({(json.loads(x)["step"], json.loads(x)["split"]) for x in lines}) == len(lines)
    (tmp_path / "run").rename(tmp_path / "two")
    codes, texts = ends(start(1, options=["--set", "mesh={data: 1}"]))
    assert codes == [0], texts
    one = summary(tmp_path)
    for name in ("params_sha256", "steps", "examples_seen", "num_eval_examples", "final"):
        assert one[name] == two[name]
    folders = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("run", "two")]
    assert folders[0] == folders[1]


def test_torchrun_gives_the_bits_of_one_process(start, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed, and with it torchrun")
    codes, texts = ends(start(1))
    assert codes == [0], texts
    one = summary(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command = [sys.executable, "-m", *launcher, "-m", "aetheria", "train", "config.yaml"]
    done = subprocess.run(
        # A device each: the mesh is there only if the two have found each other.
        [*command, "--workdir=two", "--set", "mesh={data: 2}"],
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert two["params_sha256"] == one["params_sha256"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_at_one_step(start, tmp_path, number, rank):
    processes = start(2, epochs=5000)
    wait_for_training(tmp_path, processes)
    processes[rank].send_signal(number)
    codes, texts = ends(processes)
    assert codes == [75, 75], texts
    stopped = summary(tmp_path)
    assert (stopped["status"], stopped["reason"]) == ("preempted", f"signal {number.name}")
    newest = list_snapshots(tmp_path / "run" / "checkpoints")[-1]
    assert newest.step == stopped["steps"]


def test_a_run_stopped_with_two_processes_goes_on_with_two_and_with_one(start, tmp_path):
    codes, texts = ends(start(2, options=["--stop-at-step=30"]))
    assert codes == [75, 75], texts
    codes, texts = ends(start(2, options=["--resume=latest", "--stop-at-step=40"]))
    assert codes == [75, 75], texts
    codes, texts = ends(start(1, options=["--resume=latest"]))
    assert codes == [0], texts
    moved = summary(tmp_path)
    (tmp_path / "run").rename(tmp_path / "moved")
    ends(start(1))
    assert summary(tmp_path)["params_sha256"] == moved["params_sha256"]


LAYOUTS = {
    "fsdp over both": {"fsdp": 4},
    "data over both": {"data": 2, "fsdp": 2},
}


@pytest.mark.parametrize("mesh", LAYOUTS.values(), ids=LAYOUTS)
def test_a_state_in_parts_over_two_processes_has_the_bits_of_one_device(start, tmp_path, mesh):
    codes, texts = ends(start(2, devices_each=2, mesh=mesh, options=["--stop-at-step=20"]))
    assert codes == [75, 75], texts
    codes, texts = ends(start(2, devices_each=2, mesh=mesh, options=["--resume=latest"]))
    assert codes == [0, 0], texts
    two = summary(tmp_path)
    (tmp_path / "run").rename(tmp_path / "two")
    codes, texts = ends(start(1, mesh={"data": 1}))
    assert codes == [0], texts
    one = summary(tmp_path)
    for name in ("params_sha256", "steps", "examples_seen", "num_eval_examples", "final"):
        assert one[name] == two[name]
    saved = [read_snapshot(tmp_path / name / "checkpoints" / "snapshot_ep2") for name in LAST]
    arrays = [{path: a.tobytes() for path, a in each.arrays.items()} for each in saved]
    assert arrays[0] == arrays[1]


FAST = {
    "data": {"data": 4},
    "fsdp over both": {"fsdp": 4},
    "data over both": {"data": 2, "fsdp": 2},
    "tensor over both": {"tensor": 4},
    "all": {"fsdp": 2, "tensor": 2},
}


@pytest.mark.parametrize("mesh", FAST.values(), ids=FAST)
def test_a_fast_mesh_over_two_processes_learns_what_one_device_learns(start, tmp_path, mesh):
    fast = {"reproducibility": "fast", "learning_rate": 1e-4, "epochs": 1, "mesh": mesh}
    codes, texts = ends(start(2, devices_each=2, options=["--stop-at-step=10"], **fast))
    assert codes == [75, 75], texts
    codes, texts = ends(start(2, devices_each=2, options=["--resume=latest"], **fast))
    assert codes == [0, 0], texts
    steps = summary(tmp_path)["steps"]
    (tmp_path / "run").rename(tmp_path / "two")
    codes, texts = ends(start(1, **{**fast, "mesh": {"data": 1}}))
    assert codes == [0], texts
    assert summary(tmp_path)["steps"] == steps == 23
    two, one = (read_snapshot(tmp_path / name / "checkpoints" / "snapshot_ep1") for name in LAST)
    assert set(two.arrays) == set(one.arrays)
    for path in one.arrays:
        np.testing.assert_allclose(
            two.arrays[path], one.arrays[path], rtol=0, atol=1e-5, err_msg=path
        )
    # The control: what was learnt is far more than that.
    kernel = "params/Dense_0/kernel"
    early = read_snapshot(tmp_path / "two/checkpoints/snapshot_step10").arrays[kernel]
    assert abs(early - one.arrays[kernel]).max() > 1e-4


def test_a_listener_stops_all_at_the_step_at_which_it_stops_one(start, tmp_path):
    steps = []
    for count in (1, 2):
        stopping = [{"early_stopping": {"patience": 1, "min_delta": 100.0}}]
        codes, texts = ends(start(count, epochs=20, callbacks=stopping))
        assert codes == [0] * count, texts
        steps.append(summary(tmp_path)["steps"])
        (tmp_path / "run").rename(tmp_path / str(count))
    assert steps == [46, 46]


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
