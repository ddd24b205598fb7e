"""The watchdog: what stands still ends and says where; what works, or compiles, does not."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import yaml
from support.runs import DIGITS, Finished

from aetheria.engine.heartbeat import Heartbeat
from aetheria.engine.interfaces import SingleProcess
from aetheria.hardware.processes.watchdog import Watchdog
from aetheria.tools.prove.runs import Place


class Watched:
    """A heartbeat under a watchdog, and the report with which it would end the process."""

    def __init__(self, folder, peers=None, seconds=0.3):
        self.heartbeat, self.left, self.gone = Heartbeat(), [], threading.Event()
        self.watchdog = Watchdog(
            self.heartbeat,
            seconds=seconds,
            folder=folder,
            peers=peers or SingleProcess(),
            leave=self.leave,
        )

    def leave(self, reason):
        self.left.append(reason)
        self.gone.set()


def test_what_stands_still_is_left_with_its_stacks(tmp_path):
    watched = Watched(tmp_path)
    with watched.watchdog.watching():
        watched.heartbeat.enter("training")
        watched.heartbeat.step = 12
        assert watched.gone.wait(20)
    (reason,) = watched.left
    assert reason.startswith("process 0 of 1: training after step 12, no progress for ")
    stacks = (tmp_path / "hang_rank0.txt").read_text()
    assert "training after step 12" in stacks
    assert "test_what_stands_still_is_left_with_its_stacks" in stacks


def test_what_moves_is_left_alone(tmp_path):
    watched = Watched(tmp_path, seconds=1.0)
    with watched.watchdog.watching():
        watched.heartbeat.enter("training")
        for _ in range(40):
            watched.heartbeat.count += 1
            assert not watched.gone.wait(0.05)
    assert not (tmp_path / "hang_rank0.txt").exists()


def test_starting_and_compiling_take_as_long_as_they_take(tmp_path):
    watched = Watched(tmp_path)
    with watched.watchdog.watching():
        assert not watched.gone.wait(1)
        watched.heartbeat.enter("compiling", no_timeout=True)
        assert not watched.gone.wait(1)
        watched.heartbeat.enter("training")
        assert watched.gone.wait(20)


def test_zero_seconds_is_for_ever(tmp_path):
    watched = Watched(tmp_path, seconds=0)
    with watched.watchdog.watching():
        watched.heartbeat.enter("training")
        assert not watched.gone.wait(0.5)


class Two(SingleProcess):
    """This process, and another one, of which only the shared store knows."""

    count = 2


def test_who_waits_for_one_that_compiles_is_left_alone(tmp_path):
    peers = Two()
    peers.put("no_timeout/1", True)
    watched = Watched(tmp_path, peers)
    with watched.watchdog.watching():
        watched.heartbeat.enter("training")
        assert not watched.gone.wait(1)
        peers.put("hang/1", "training after step 3, no progress for 9 s")
        peers.put("no_timeout/1", False, replace=True)
        assert watched.gone.wait(20)
    assert "process 1 of 2: training after step 3" in watched.left[0]


# A dataset that stops giving at the first window, in the process that the environment names; a
# model that is slow to trace.
PROJECT = """
import os, time, traceback
import numpy as np
from aetheria.data import DataSplits
from aetheria.data.sources import ArraySource
from aetheria.models.mlp import SimpleMLP


class Stuck(ArraySource):
    def read(self, indices):
        trains = any(frame.name == "take" for frame in traceback.extract_stack())
        if trains and os.environ.get("STUCK"):  # not at the looks at the data before the run
            time.sleep(3600)
        return super().read(indices)


def stuck_data():
    rng = np.random.default_rng(0)
    columns = {"inputs": rng.random((640, 64), np.float32), "labels": np.arange(640) % 10}
    return DataSplits(train=Stuck(columns), eval=ArraySource(columns))


class SlowToTrace(SimpleMLP):
    def loss(self, *args, **kwargs):
        time.sleep(3)
        return super().loss(*args, **kwargs)
"""


@pytest.fixture
def start(tmp_path):
    """Starts `aetheria train` on the project's data, in one process or several."""
    started = []
    (tmp_path / "project.py").write_text(PROJECT)

    def run(*, count=1, stuck=(), **changes):
        file = tmp_path / "config.yaml"
        config = {**DIGITS, "data_name": "project:stuck_data", "epochs": 20, "strategy": "auto"}
        file.write_text(yaml.safe_dump({**config, **changes}))
        groups = list(Place(count, count).options()) if count > 1 else [()]
        for rank in range(count):
            environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(tmp_path)}
            if rank in stuck:
                environment["STUCK"] = "1"
            command = [sys.executable, "-m", "aetheria", "train", str(file), "--workdir=run"]
            started.append(
                subprocess.Popen(
                    [*command, *groups[rank]],
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        texts = [process.communicate(timeout=180)[1] for process in started]
        codes = [process.returncode for process in started]
        return codes, texts

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()


@pytest.mark.slow
def test_a_run_whose_data_stops_ends_with_76_and_says_so(start, tmp_path):
    started_at = time.monotonic()
    codes, texts = start(stuck=[0], watchdog_seconds=3)
    assert codes == [76], texts
    assert time.monotonic() - started_at < 60
    assert "process 0 of 1: waiting for data after step " in texts[0].splitlines()[-1]
    assert "in read" in (tmp_path / "run" / "hang_rank0.txt").read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("hung", 76)
    assert "waiting for data" in summary["reason"]


@pytest.mark.slow
def test_a_compilation_longer_than_the_limit_is_no_hang(start, tmp_path):
    codes, texts = start(model_name="project:SlowToTrace", watchdog_seconds=2, epochs=1)
    assert codes == [0], texts
    seconds = Finished(0, tmp_path / "run").summary["goodput"]["seconds"]
    assert seconds["compile"] > 3


@pytest.mark.slow
def test_of_two_processes_each_says_where_it_stands(start, tmp_path):
    codes, texts = start(count=2, stuck=[1], watchdog_seconds=3, strategy="mesh")
    assert codes == [76, 76], texts
    assert "process 1 of 2: waiting for data after step " in texts[0]
    assert "process 0 of 2: " in texts[0]
    for rank in (0, 1):
        assert f"process {rank} of 2" in (tmp_path / "run" / f"hang_rank{rank}.txt").read_text()
