"""`scripts/slurm/train.sbatch` on a real SLURM with two nodes."""

import json
import sys
import time

import pytest
import yaml
from support.runs import DIGITS, REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SCRIPT = str(REPOSITORY / "scripts" / "slurm" / "train.sbatch")
WRITE_DEVICES = str(REPOSITORY / "tests" / "cases" / "project" / "write_devices.py")
CONFIG = {**DIGITS, "reproducibility": "elastic", "strategy": "mesh", "loggers": ["jsonl"]}


@pytest.fixture
def submit(slurm, tmp_path):
    """Submits the script for two nodes; returns the job's number. Cancelled in the end."""
    jobs = []

    def run(**changes):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
        command = ("sbatch", "--parsable", "--nodes=2", SCRIPT, "config.yaml", "run")
        job = slurm.run(*command, cwd=tmp_path).strip()
        assert job.isdigit(), job
        jobs.append(job)
        return job

    yield run
    for job in jobs:
        slurm.run("scancel", job)
        slurm.wait_for(lambda job=job: state(slurm, job) in ("", "CANCELLED", "COMPLETED"), 60)


def state(slurm, job):
    return slurm.run("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").strip()


def log(tmp_path, job):
    file = tmp_path / f"aetheria-{job}.log"
    return file.read_text() if file.exists() else ""


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.uncached
def test_two_nodes_give_the_bits_of_one_process(slurm, submit, tmp_path, train):
    job = submit()
    slurm.wait_for(lambda: state(slurm, job) in ("COMPLETED", "FAILED"), 180)
    assert state(slurm, job) == "COMPLETED", log(tmp_path, job)
    for index in (0, 1):
        assert f"process {index} of 2 on host" in log(tmp_path, job), log(tmp_path, job)
    one = train("one", reproducibility="elastic", strategy="cpu")
    assert summary(tmp_path / "run")["params_sha256"] == one.summary["params_sha256"]


LAYOUTS = {
    "a task for each GPU": (2, ["0 sees 0", "1 sees 1", "2 sees 0", "3 sees 1"]),
    "one task a node": (1, ["0 sees all", "1 sees all"]),
}


@pytest.mark.parametrize(("tasks", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_tasks_take_the_gpus_of_their_node(slurm, tmp_path, tasks, expected):
    layout = ("--nodes=2", f"--ntasks-per-node={tasks}", "--gpus-per-node=2", "--overcommit")
    said = slurm.run("srun", *layout, sys.executable, WRITE_DEVICES, cwd=tmp_path)
    written = [file.read_text().splitlines()[0] for file in tmp_path.glob("*.txt")]
    assert sorted(written) == expected, said


def test_a_job_that_is_signalled_is_requeued_and_goes_on(slurm, submit, tmp_path):
    job = submit(epochs=5000)
    metrics = tmp_path / "run" / "metrics.jsonl"
    slurm.wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, 120)
    slurm.run("scancel", "--signal=USR1", job)
    slurm.wait_for(lambda: state(slurm, job) == "PENDING", 120)
    stopped = summary(tmp_path / "run")
    assert (stopped["exit_code"], stopped["reason"]) == (75, "signal SIGUSR1")
    # SLURM waits two minutes before it starts a requeued job, unless it is told otherwise. Within
    # the second in which it ended, a node still refuses it as one that was killed.
    time.sleep(2)
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    resumed = f"resuming from run/checkpoints/snapshot_step{stopped['steps']}"
    at_end = f"resuming from run/checkpoints/snapshot_ep{stopped['epoch']} "
    slurm.wait_for(lambda: resumed in log(tmp_path, job) or at_end in log(tmp_path, job), 120)
