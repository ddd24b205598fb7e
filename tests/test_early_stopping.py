"""Early stopping: when it asks for a stop, and that a resume does not make it forget."""

import json
import math
from dataclasses import replace

import pytest
from support.runs import DIGITS

from aetheria.build import build_run
from aetheria.config import make_config
from aetheria.engine.stop import StopSignal
from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Progress, RunStarted
from aetheria.observe.callbacks.early_stopping import EarlyStopping
from aetheria.observe.listener import RunContext
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.run_plan import RunPlan

# An improvement by 100 never comes: the evaluation of step 5 is the best, 10 and 15 are worse.
IMPATIENT = {
    "eval_every_steps": 5,
    "callbacks": [{"early_stopping": {"patience": 2, "min_delta": 100}}],
}


def test_a_run_that_no_longer_improves_is_completed_early(train):
    run = train("early", **IMPATIENT)
    assert run.exit_code == 0
    assert run.summary["status"] == "completed"
    assert run.summary["steps"] == 15
    expected = "early stopping: eval/loss has not improved for 2 evaluations"
    assert run.summary["reason"] == expected


def last_step(snapshot, folder):
    """The step at which a run ends that is resumed from a snapshot in memory."""
    config = make_config({**DIGITS, **IMPATIENT, "loggers": ()}, "test")
    run = build_run(config, RunPlan(run_dir=folder, snapshot=snapshot), None)
    return run.execute().progress.step


def test_a_resumed_run_stops_where_an_uninterrupted_one_does(train, tmp_path):
    """Stopped between two evaluations that are both needed to make the patience end."""
    stopped = train("resumed", **IMPATIENT, stop_at_step=12)
    assert stopped.exit_code == 75
    snapshot = read_snapshot(stopped.run_dir / "checkpoints" / "snapshot_step12")
    assert snapshot.record.listeners["early_stopping"]["num_worse"] == 1
    resumed = train("resumed", **IMPATIENT, resume="latest")
    assert (resumed.exit_code, resumed.summary["steps"]) == (0, 15)
    # The control: without the listener's state the run goes on for longer.
    forgetful = snapshot._replace(record=replace(snapshot.record, listeners={}))
    assert last_step(snapshot, tmp_path / "same") == 15
    assert last_step(forgetful, tmp_path / "forgetful") == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": "eval/f1"}, "expected monitor to be one of eval/.*, got 'eval/f1'"),
        ({"mode": "up"}, "expected mode min or max .*, got 'up'"),
        ({"patience": 0}, "patience of 1 or more, got 'min' and 0"),
    ],
)
def test_a_wrong_argument_is_an_error_before_anything_is_written(
    train, tmp_path, arguments, message
):
    with pytest.raises(AetheriaError, match=message) as error:
        train("wrong", callbacks=[{"early_stopping": arguments}])
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "wrong").exists()


def make(tmp_path, **arguments):
    context = RunContext(
        run_dir=tmp_path,
        config={},
        stop=StopSignal(),
        eval_metrics=("eval/loss", "eval/accuracy"),
    )
    return EarlyStopping(context, **arguments), context.stop


def evaluate(listener, value, name="loss"):
    metrics = {"loss": 0.0, "accuracy": 0.0, name: value}
    listener.notify(
        EvaluationCompleted(progress=Progress(step=1), metrics=metrics, num_examples=1, seconds=0.1)
    )


def evaluations_until_stop(tmp_path, values, **arguments):
    """After how many of the values the stop is asked for; None: never."""
    listener, stop = make(tmp_path, **arguments)
    name = arguments.get("monitor", "eval/loss").removeprefix("eval/")
    for number, value in enumerate(values, start=1):
        evaluate(listener, value, name)
        if stop.requested:
            assert not stop.preempt, "the run is complete, not to be continued"
            return number
    return None


@pytest.mark.parametrize(
    ("values", "arguments", "expected"),
    [
        ([3, 2, 1, 0], {"patience": 1}, None),
        ([3, 2, 2], {"patience": 1}, 3),
        ([3, 4, 5, 6], {"patience": 2}, 3),
        ([3, 4, 2, 3, 4], {"patience": 2}, 5),
        ([3, 2.95, 2.9], {"patience": 2, "min_delta": 0.2}, 3),
        ([3, 2.95, 2.7], {"patience": 2, "min_delta": 0.2}, None),
    ],
)
def test_patience_counts_evaluations_without_improvement(tmp_path, values, arguments, expected):
    assert evaluations_until_stop(tmp_path, values, **arguments) == expected


def test_mode_max_takes_larger_for_better(tmp_path):
    accuracy = {"monitor": "eval/accuracy", "patience": 1}
    assert evaluations_until_stop(tmp_path, [0.1, 0.2, 0.3], mode="max", **accuracy) is None
    assert evaluations_until_stop(tmp_path, [0.3, 0.2], mode="max", **accuracy) == 2
    assert evaluations_until_stop(tmp_path, [0.1, 0.2], mode="min", **accuracy) == 2


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_counts_as_worse(tmp_path, mode):
    assert evaluations_until_stop(tmp_path, [1, math.nan, math.nan], mode=mode, patience=2) == 3
    better = 0.5 if mode == "min" else 2
    assert evaluations_until_stop(tmp_path, [1, math.nan, better], mode=mode, patience=2) is None


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_nan_at_first_is_no_bar_that_nothing_passes(tmp_path, mode):
    better = [3, 2, 1] if mode == "min" else [1, 2, 3]
    values = [math.nan, *better]
    assert evaluations_until_stop(tmp_path, values, mode=mode, patience=2) is None
    assert evaluations_until_stop(tmp_path, [math.nan] * 3, mode=mode, patience=2) == 2


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_state_is_json_and_continues_the_count(tmp_path, mode):
    values = [math.nan, 2.0, 2.0, 1.0, 3.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    arguments = {"mode": mode, "patience": 4}
    expected = evaluations_until_stop(tmp_path, values, **arguments)
    assert expected is not None
    stops, state = [], make(tmp_path, **arguments)[0].export_state()
    for value in values[:expected]:
        listener, stop = make(tmp_path, **arguments)
        listener.import_state(json.loads(json.dumps(state, allow_nan=False)))
        evaluate(listener, value)
        state = listener.export_state()
        stops.append(stop.requested)
    assert stops == [False] * (expected - 1) + [True]


def resumed_at(tmp_path, state, **arguments):
    listener, stop = make(tmp_path, **arguments)
    listener.import_state(state)
    listener.notify(
        RunStarted(progress=Progress(step=3), total_steps=9, steps_per_epoch=3, resumed=True)
    )
    return stop.requested


def test_a_run_that_was_stopped_stays_so_unless_it_is_given_more_patience(tmp_path):
    stopped, _ = make(tmp_path, patience=2)
    for value in (1.0, 2.0, 2.0):
        evaluate(stopped, value)
    assert resumed_at(tmp_path, stopped.export_state(), patience=2)
    assert not resumed_at(tmp_path, stopped.export_state(), patience=3)
