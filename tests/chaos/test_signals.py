"""A signal to one of two processes, at random times: both leave at one step, exactly."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from support.compile_cache import own_cache
from support.long import long_or
from support.runs import DIGITS, Finished, without_rate

from aetheria.observe.goodput import read_goodput
from aetheria.snapshots.store import find_newest
from aetheria.tools.prove.runs import Place

pytestmark = pytest.mark.uncached

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EVENTFUL = {
    **DIGITS,
    "reproducibility": "elastic",
    "strategy": "mesh",
    "ema_decay": 0.99,
    "epochs": 100_000,
    "log_every_steps": 5,
    "eval_every_steps": 40,
    "snapshot": {"every_steps": 15, "every_epochs": 0, "keep_last": 3},
}


@pytest.fixture
def start(tmp_path):
    file, started = tmp_path / "config.yaml", []
    file.write_text(yaml.safe_dump(EVENTFUL))

    def run(count, workdir, *options):
        processes, compiled = [], own_cache(tmp_path / f"{workdir} compiled")
        for rank, group in enumerate(Place(count, count).options()):
            command = [sys.executable, "-m", "aetheria", "train", str(file), "--resume=auto"]
            command += [f"--workdir={workdir}", *options, "--set", f"mesh={{data: {count}}}"]
            command += group
            with (tmp_path / f"{rank}.txt").open("w") as output:
                process = subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env={**os.environ, "XLA_FLAGS": "", **compiled},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            processes.append(process)
        started.extend(processes)
        return processes

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()


def said(tmp_path):
    return [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]


def num_starts(folder):
    return len(read_goodput(folder))


@pytest.mark.slow
def test_both_processes_leave_at_one_step_and_nothing_is_lost(start, tmp_path):
    chance, folder = random.Random(8), tmp_path / "run"
    steps, cases = [0], set()
    for turn in range(long_or(2, 20)):
        before = num_starts(folder)
        processes = start(2, "run")
        deadline = time.monotonic() + 120
        # Until the run has started, before its step is compiled.
        while num_starts(folder) == before:
            assert time.monotonic() < deadline, said(tmp_path)
            assert all(process.poll() is None for process in processes), said(tmp_path)
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 4))
        rank, number = turn % 2, SIGNALS[turn % len(SIGNALS)]
        cases.add((rank, number))
        processes[rank].send_signal(number)
        assert [process.wait(timeout=120) for process in processes] == [75, 75], said(tmp_path)
        step = json.loads((folder / "summary.json").read_text())["steps"]
        (others,) = re.findall(r"process 1: preempted at step (\d+)", said(tmp_path)[1])
        assert step == int(others) and step > steps[-1]
        newest, damaged = find_newest(folder / "checkpoints")
        assert newest is not None and not damaged
        assert newest.record.progress.step == step
        steps.append(step)
    assert {rank for rank, _ in cases} == {0, 1}
    assert len({number for _, number in cases}) == long_or(2, len(SIGNALS))

    (process,) = start(1, "whole", f"--stop-at-step={steps[-1]}")
    assert process.wait(timeout=400) == 75, said(tmp_path)
    stopped, whole = (find_newest(tmp_path / name / "checkpoints")[0] for name in ("run", "whole"))
    assert stopped is not None and whole is not None
    for path, array in whole.arrays.items():
        assert array.tobytes() == stopped.arrays[path].tobytes(), path
    runs = [Finished(75, place) for place in (folder, tmp_path / "whole")]
    assert without_rate(runs[0].metrics) == without_rate(runs[1].metrics)
