"""A stop in the middle of an evaluation: the run leaves at once, and evaluates when it goes on."""

import shutil

import pytest
from support.long import covering
from support.metric_files import csv_rows, curve
from support.runs import without_rate

from aetheria.events import EvaluationCompleted
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.store import list_snapshots

PATIENCE = {"early_stopping": {"patience": 2, "min_delta": 9.0}}  # worse each time but the first
LOUD = {"loggers": ["jsonl", "csv", "tensorboard"], "epochs": 3, "log_every_steps": 23}


class Counter:
    """Callback: counts the evaluations of all runs in this process."""

    counted: list = []  # noqa: RUF012

    def __init__(self, context):
        pass

    def notify(self, event):
        if isinstance(event, EvaluationCompleted):
            self.counted.append(event.progress.step)


def stopper(step):
    return {"support.stopper:Stopper": {"step": step}}


def curves(run):
    tags = ("train/loss", "eval/loss")
    return {tag: curve(run.run_dir / "tensorboard", tag) for tag in tags}


def told(run):
    return without_rate(run.metrics), csv_rows(run.run_dir), curves(run)


@pytest.fixture(scope="module")
def whole(train_once):
    return train_once("whole", **LOUD)


# The last is the end of the run.
@pytest.mark.parametrize("step", covering([23, 46, 69], default=[46]))
def test_it_leaves_without_the_evaluation_and_ends_as_if_it_had_not(train, whole, step):
    stopped = train("run", **LOUD, callbacks=[stopper(step)])
    assert stopped.exit_code == 75
    assert (stopped.summary["status"], stopped.summary["steps"]) == ("preempted", step)
    assert [line["step"] for line in stopped.metrics if line["split"] == "eval"] == [
        s for s in (23, 46) if s < step
    ]
    newest = list_snapshots(stopped.run_dir / "checkpoints")[-1]
    assert (newest.path.name, newest.metrics) == (f"snapshot_step{step}_unevaluated", {})
    resumed = train("run", **LOUD, resume="latest")
    assert resumed.exit_code == 0
    assert told(resumed) == told(whole)
    for key in ("params_sha256", "final", "best", "num_eval_examples"):
        assert resumed.summary[key] == whole.summary[key]


def test_a_kill_after_the_late_evaluation_writes_nothing_twice(train, whole):
    stopped = train("run", **LOUD, callbacks=[stopper(46)])
    assert train("run", **LOUD, resume="latest").exit_code == 0
    for name in ("snapshot_ep2", "snapshot_ep3"):  # as if a kill had come before they were whole
        shutil.rmtree(stopped.run_dir / "checkpoints" / name)
    assert told(train("run", **LOUD, resume="latest")) == told(whole)


def test_the_snapshot_with_the_evaluation_counts_as_the_newer_one(train):
    run = train("run", epochs=2, callbacks=[stopper(46)])
    train("run", epochs=2, resume="latest")
    names = [info.path.name for info in list_snapshots(run.run_dir / "checkpoints")]
    assert names == ["snapshot_ep1", "snapshot_step46_unevaluated", "snapshot_ep2"]
    again = train("run", epochs=2, resume="46")
    assert again.summary["best"]["snapshot"] == "snapshot_ep2"
    latest = read_snapshot(run.run_dir / "checkpoints" / "snapshot_ep2")
    assert latest.record.engine.pending is None


def test_an_evaluation_that_another_cadence_no_longer_asks_for_is_left_out(train):
    every = {"epochs": 2, "log_every_steps": 10, "callbacks": [stopper(20)]}
    run = train("run", **every, eval_every_steps=20)
    done = train("run", **every, eval_every_steps=15, resume="latest")
    lines = [(line["step"], line["split"]) for line in done.metrics]
    assert lines.count((20, "train")) == 1 and (20, "eval") not in lines
    assert [step for step, split in lines if split == "eval"] == [30, 45, 46]
    names = [info.path.name for info in list_snapshots(run.run_dir / "checkpoints")]
    assert names == ["snapshot_step20_unevaluated", "snapshot_ep1", "snapshot_ep2"]


def test_a_second_stop_in_the_same_evaluation_changes_nothing(train, whole):
    for _ in range(2):
        stopped = train("run", **LOUD, callbacks=[stopper(46)], resume="auto")
        assert stopped.exit_code == 75
    assert stopped.summary["snapshot_failures"] == []
    assert told(train("run", **LOUD, resume="latest")) == told(whole)


def test_listeners_judge_the_late_evaluation_once(train):
    patient = {**LOUD, "epochs": 6}
    whole = train("whole", **patient, callbacks=[PATIENCE])
    assert whole.summary["steps"] == 69
    train("run", **patient, callbacks=[PATIENCE, stopper(46)])
    resumed = train("run", **patient, callbacks=[PATIENCE], resume="latest")
    assert (resumed.exit_code, resumed.summary["steps"]) == (0, 69)
    assert told(resumed) == told(whole)


def test_a_listener_that_ends_the_run_lets_the_evaluation_end(train):
    Counter.counted.clear()
    train("run", epochs=6, callbacks=[PATIENCE, f"{__name__}:Counter"])
    assert Counter.counted == [23, 46, 69]
