"""Law of Resilience: every bit that decides the future of a run is in the snapshot."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml
from support.compile_cache import users_compilation
from support.long import covering
from support.runs import DIGITS, Finished, without_rate

from aetheria.build import build_run
from aetheria.config import make_config
from aetheria.errors import SnapshotError
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.manifest import part_sha256
from aetheria.snapshots.run_plan import RunPlan

# Dropout, shuffling, accumulation, padding at the tail, and a callback with a state of its own.
EVENTFUL = {
    **DIGITS,
    "grad_accumulation_steps": 2,
    "epochs": 2,
    "callbacks": [{"early_stopping": {"patience": 50}}],
}


@pytest.mark.uncached
@pytest.mark.parametrize("step", covering([1, 22, 23, 24, 40], default=[23]))
def test_a_run_stopped_anywhere_and_resumed_equals_an_uninterrupted_one(train, step):
    whole = train("whole", **EVENTFUL)
    stopped = train("resumed", **EVENTFUL, stop_at_step=step)
    assert stopped.exit_code == 75
    assert stopped.summary["steps"] == step
    resumed = train("resumed", **EVENTFUL, resume="latest")
    assert resumed.exit_code == 0
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    assert without_rate(resumed.metrics) == without_rate(whole.metrics)


@pytest.fixture(scope="module")
def stopped_at_30(train_once):
    run = train_once("stopped", **EVENTFUL, stop_at_step=30)
    return read_snapshot(run.run_dir / "checkpoints" / "snapshot_step30")


def finish(snapshot, tmp_path, name):
    """The digest of the whole final state of a run resumed from a snapshot in memory."""
    config = make_config({**EVENTFUL, "loggers": ()}, "test")
    plan = RunPlan(run_dir=tmp_path / name, snapshot=snapshot)
    run = build_run(config, plan, None)
    return part_sha256(run.program.export_state(run.execute().state), "params")


@pytest.fixture(scope="module")
def right(stopped_at_30, tmp_path_factory):
    """The digest of a run that loses nothing."""
    folder = tmp_path_factory.mktemp("right")
    digest = finish(stopped_at_30, folder, "right")
    assert finish(stopped_at_30, folder, "again") == digest
    return digest


@pytest.fixture(scope="module")
def initial(stopped_at_30):
    """The leaves of another seed's state at step 0."""
    config = make_config({**EVENTFUL, "seed": 7}, "test")
    fresh = build_run(config, RunPlan(run_dir=stopped_at_30.path), None).program
    return {path: np.asarray(leaf) for path, leaf in fresh.export_state(fresh.init()).items()}


def reset_leaves(snapshot, initial, field):
    """The snapshot with one field of the state as it was at step 0."""
    changed = {
        path: initial[path] if path.startswith(field) else array
        for path, array in snapshot.arrays.items()
    }
    assert any(path.startswith(field) for path in changed), field
    return snapshot._replace(arrays=changed)


@pytest.mark.parametrize("field", ["params", "opt_state", "base_key", "counters"])
def test_a_field_of_the_state_that_is_lost_changes_the_result(
    stopped_at_30, initial, right, tmp_path, field
):
    assert finish(reset_leaves(stopped_at_30, initial, field), tmp_path, field) != right


def test_a_lost_data_position_changes_the_result(stopped_at_30, right, tmp_path):
    record = stopped_at_30.record
    progress = replace(record.progress, examples_seen=0)
    moved = stopped_at_30._replace(record=replace(record, progress=progress))
    assert finish(moved, tmp_path, "moved") != right


def test_a_missing_leaf_is_named(stopped_at_30, tmp_path):
    for lost in stopped_at_30.arrays:
        arrays = {path: a for path, a in stopped_at_30.arrays.items() if path != lost}
        with pytest.raises(SnapshotError, match=f"expected a leaf '{lost}'"):
            finish(stopped_at_30._replace(arrays=arrays), tmp_path, "missing")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a real process that trains long enough to be interrupted."""
    tmp_path = tmp_path_factory.mktemp("signals")
    file = tmp_path / "long.yaml"
    changes = {"epochs": 12, "snapshot": {"every_epochs": 1, "keep_last": 50}}
    file.write_text(yaml.safe_dump({**DIGITS, **changes}))

    def run(name, *options):
        command = [sys.executable, "-m", "aetheria", "train", str(file), f"--workdir={name}"]
        with (tmp_path / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [*command, *options],
                cwd=tmp_path,
                env={**os.environ, **users_compilation(), "JAX_ENABLE_COMPILATION_CACHE": "false"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return process, tmp_path / name

    return run


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole_process(start):
    process, whole = start("whole")
    assert process.wait() == 0, (whole.parent / "output.txt").read_text()
    return whole


SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


# The others, at moments chosen: chaos/test_signal_moments.py.
@pytest.mark.slow
@pytest.mark.parametrize("number", covering({s.name: s for s in SIGNALS}, default=[]))
def test_a_process_that_is_signalled_and_resumed_equals_an_uninterrupted_one(
    start, whole_process, number
):
    whole = whole_process
    process, folder = start(number.name)
    wait_for(folder / "checkpoints" / "snapshot_ep3", process)
    process.send_signal(number)
    expected = -signal.SIGKILL if number == signal.SIGKILL else 75
    assert process.wait() == expected, (whole.parent / "output.txt").read_text()
    process, _ = start(number.name, "--resume=auto")
    assert process.wait() == 0, (whole.parent / "output.txt").read_text()
    before, after = Finished(0, whole), Finished(0, folder)
    assert after.summary["params_sha256"] == before.summary["params_sha256"]
    assert without_rate(after.metrics) == without_rate(before.metrics)
