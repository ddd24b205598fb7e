"""`aetheria sweep --slurm` on a real SLURM with two nodes."""

import json
import os
import subprocess
import sys
import time

import pytest
import yaml
from support.runs import DIGITS

from aetheria.snapshots.store import list_snapshots

pytest.importorskip("optuna")
pytestmark = [pytest.mark.slow, pytest.mark.slurm]
WORDS = ["--space=learning_rate=log:1e-4:1e-1", "--sampler=random", "--pruner=none"]


def sweep(slurm, folder, *words):
    (folder / "c.yaml").write_text(yaml.safe_dump({**DIGITS, "epochs": 1}))
    return subprocess.run(
        [sys.executable, "-m", "aetheria", "sweep", "c.yaml", *WORDS, *words],
        cwd=folder,
        env=slurm.environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_each_trial_is_a_job_of_an_array(slurm, tmp_path):
    done = sweep(slurm, tmp_path, "--slurm", "--jobs=2", "--trials=2")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "sweeps" / "c"
    found = json.loads((folder / "sweep.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["complete"] * 2, done.stdout
    assert len(list(folder.glob("slurm-*_[01].log"))) == 2
    assert len({trial["point"]["learning_rate"] for trial in found["trials"]}) == 2
    again = sweep(slurm, tmp_path, "--slurm", "--trials=2")
    assert again.returncode == 0 and "submits" not in again.stdout


def test_a_job_that_is_signalled_is_requeued_and_continues_its_trial(slurm, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**DIGITS, "epochs": 300}))
    words = [*WORDS, "--slurm", "--trials=1", "--set=snapshot.every_epochs=20"]
    process = subprocess.Popen(
        [sys.executable, "-m", "aetheria", "sweep", "c.yaml", *words],
        cwd=tmp_path,
        env=slurm.environment,
    )
    run = tmp_path / "sweeps" / "c" / "trial_0" / "seed_0"
    slurm.wait_for(lambda: list_snapshots(run / "checkpoints"), 120)
    (job,) = slurm.run("squeue", "-h", "-o", "%A").split()
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.wait_for(lambda: slurm.run("squeue", "-h", "-o", "%T").strip() == "PENDING", 60)
    assert json.loads((run / "summary.json").read_text())["exit_code"] == 75
    time.sleep(2)  # within the second in which it ended, a node refuses it as one that was killed
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    assert process.wait(120) == 0
    log = run.with_suffix(".log").read_text()
    assert (log.count("starting afresh"), log.count("resuming from")) == (1, 1), log
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"


def test_what_slurm_refuses_is_one_line(slurm, tmp_path):
    done = sweep(slurm, tmp_path, "--slurm", "--trials=1", "--sbatch=partition=none")
    assert done.returncode == 2 and done.stderr.startswith("--slurm: expected jobs, got"), done
    assert len(done.stderr.splitlines()) == 1 and "partition" in done.stderr


def test_without_slurm_one_line_says_so(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(DIGITS))
    monkeypatch.setenv("PATH", "")
    done = subprocess.run(
        [sys.executable, "-m", "aetheria", "sweep", "c.yaml", *WORDS, "--slurm"],
        cwd=tmp_path,
        env={**os.environ, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "expected the program sbatch" in done.stderr
