"""Spot checks in whole runs: what follows when one fails."""

import os
import platform
import re

import pytest
import yaml
from support import faults
from support.long import covering
from support.runs import DIGITS, Finished, without_rate

from aetheria.snapshots import read_snapshot

pytestmark = pytest.mark.own_programs  # faults are put into a program

CHECKED = {
    "reproducibility": "elastic",
    "strategy": "mesh",
    "mesh": {"data": 4},
    "spot_check_every": 10,
    "snapshot": {"every_steps": 5},
    "log_every_steps": 4,
    "max_steps": 46,
    "loggers": ["jsonl", "console"],
}


@pytest.fixture
def plant(monkeypatch):
    """`plant(step, times)`: the device number 2 computes wrong at the check after that step."""
    return faults.plant(monkeypatch.setattr)


@pytest.fixture(scope="module")
def clean(train_once):
    return train_once("clean", **CHECKED)


def lines_of(run):
    return without_rate(run.metrics)


def test_a_rollback_ends_with_the_bits_of_the_clean_run(train, plant, clean, capsys):
    plant(20, 1)
    run = train("run", **CHECKED)
    assert run.exit_code == 0
    assert run.summary["params_sha256"] == clean.summary["params_sha256"]
    assert lines_of(run) == lines_of(clean)
    out = capsys.readouterr().out
    assert "step 21: spot check failed: the gradient of lane" in out and "cpu:2" in out
    # Of step 10, the last state that had passed, or earlier: a save that is busy leaves one out.
    back = re.search(r"rolled back from step 21 to snapshot_step(\d+) ", out)
    assert back and int(back[1]) <= 10
    # Those of later steps are not trusted, and not deleted.
    quarantine = run.run_dir / "checkpoints" / "quarantine"
    moved = {path.name for path in quarantine.iterdir()} if quarantine.exists() else set()
    assert moved <= {"snapshot_step15", "snapshot_step20"}
    last = read_snapshot(
        max((run.run_dir / "checkpoints").glob("snapshot_*"), key=os.path.getmtime)
    )
    assert last.record.engine.passed_check == 40


def test_the_same_check_that_fails_again_ends_the_run(train, plant):
    plant(20, 2)
    run = train("run", **CHECKED)
    assert run.exit_code == 3 and run.summary["status"] == "halted"
    assert run.summary["reason"].startswith(
        "the spot check at step 21 failed: the gradient of lane"
    )


def test_halt_ends_the_run_at_once_and_another_start_goes_on(train, plant, clean):
    plant(20, 1)
    run = train("run", **CHECKED, on_mismatch="halt")
    assert run.exit_code == 3 and run.summary["steps"] == 20
    on_two = {**CHECKED, "mesh": {"data": 2}}
    run = train("run", **on_two, resume="latest")
    assert run.exit_code == 0
    assert run.summary["params_sha256"] == clean.summary["params_sha256"]


@pytest.mark.parametrize("times", covering([1, 5], default=[5]))
def test_report_takes_the_step_again(train, plant, clean, times, capsys):
    plant(20, times)
    run = train("run", **CHECKED, on_mismatch="report")
    assert run.exit_code == 0
    assert capsys.readouterr().out.count("spot check failed") == min(times, 2)
    assert run.summary["params_sha256"] == clean.summary["params_sha256"]
    assert lines_of(run) == lines_of(clean)


def test_checks_move_no_bit(train, clean):
    run = train("run", **{**CHECKED, "spot_check_every": 0, "mesh": {"data": 1}})
    assert run.summary["params_sha256"] == clean.summary["params_sha256"]
    assert lines_of(run) == lines_of(clean)


def test_without_elastic_there_is_nothing_to_check(command, tmp_path):
    (tmp_path / "fast.yaml").write_text(yaml.safe_dump({**DIGITS, "spot_check_every": 10}))
    done = command("train", "fast.yaml")
    assert done.returncode == 2
    assert "spot_check_every: expected 0 without reproducibility elastic" in done.stderr


def test_a_fault_in_one_process_is_named_by_the_other(start, tmp_path, clean):
    processes = start(2, devices_each=2, module="support.faulty_train", **CHECKED)
    (out, _), *_ = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], out
    assert "step 11: spot check failed: the gradient of lane" in out
    assert f"of process 1 on {platform.node()}" in out and "of process 0" not in out
    assert Finished(0, tmp_path / "run").summary["params_sha256"] == clean.summary["params_sha256"]
