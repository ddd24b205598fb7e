"""What becomes of a run when a loss is not finite: skip, halt, rollback, on any devices."""

import importlib.util
import json

import numpy as np
import pytest
from support.long import covering
from support.metric_files import curve
from support.nonfinite_data import BAD
from support.processes import ends
from support.runs import TESTS, without_rate

from aetheria.snapshots import read_snapshot

DEVICES = {
    "1": {"strategy": "cpu"},
    "8": {"strategy": "mesh", "mesh": {"data": 8}},
    "2 elastic": {"strategy": "mesh", "mesh": {"data": 2}, "reproducibility": "elastic"},
}
if importlib.util.find_spec("torch"):
    DEVICES["torch"] = {"strategy": "torch"}


def on(*default):
    """Runs a test on all devices, without `--long` on some: each test on others."""
    every = [*DEVICES, "2 processes"]
    chosen = [name for name in default if name in every]
    return pytest.mark.parametrize("run", covering(every, default=chosen), indirect=True)


@pytest.fixture
def run(request, train, start, tmp_path, monkeypatch):
    """Trains the bad config on some devices: (exit code, summary, run folder)."""
    if request.param in DEVICES:

        def in_process(name, **changes):
            finished = train(name, **{**BAD, **DEVICES[request.param], **changes})
            return finished.exit_code, finished.summary, finished.run_dir

        return in_process

    monkeypatch.setenv("PYTHONPATH", str(TESTS))

    def in_two(name, *, stop_at_step=None, **changes):
        config = {**BAD, "reproducibility": "fast", "strategy": "mesh", **changes}
        options = [] if stop_at_step is None else [f"--stop-at-step={stop_at_step}"]
        codes, texts = ends(start(2, devices_each=1, options=options, **config))
        assert codes[0] == codes[1], texts
        folder = (tmp_path / "run").rename(tmp_path / name)
        return codes[0], json.loads((folder / "summary.json").read_text()), folder

    return in_two


def state_of(folder, step):
    """The learned part of a snapshot's state, and the guard's counters."""
    arrays = dict(read_snapshot(folder / "checkpoints" / f"snapshot_step{step}").arrays)
    counters = arrays.pop("counters").tolist()
    return arrays, counters


@on("2 elastic", "torch")
def test_skip_changes_nothing_but_the_counters(run):
    stopped = {step: run(f"to{step}", stop_at_step=step) for step in (12, 13)}
    assert [code for code, *_ in stopped.values()] == [75, 75]
    before, counted_before = state_of(stopped[12][2], 12)
    after, counted = state_of(stopped[13][2], 13)
    assert all(np.array_equal(before[path], after[path]) for path in before)
    assert counted_before[:5] == [12, 0, 0, 0, 0]
    assert counted[:5] == [13, 1, 1, 13, 0]
    earlier, _ = state_of(stopped[13][2], 10)
    assert not all(np.array_equal(earlier[path], before[path]) for path in before), "the control"


@on("1", "torch", "2 processes")
def test_halt_ends_with_3_and_writes_no_bad_snapshot(run):
    code, summary, folder = run("halted", on_nonfinite="halt")
    assert code == summary["exit_code"] == 3
    assert (summary["status"], summary["steps"]) == ("halted", 13)
    assert summary["reason"] == "non-finite loss or gradient at step 13, 1 in a row"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["snapshot_step10"]
    arrays, _ = state_of(folder, 10)
    assert all(np.isfinite(a).all() for a in arrays.values())


@on("8")
def test_rollback_finishes_with_the_bits_of_skip(run):
    code, rolled, folder = run("rolled", on_nonfinite="rollback")
    assert (code, rolled["status"], rolled["steps"]) == (0, "completed", 23)
    code, skipped, _ = run("skipped")
    assert (code, skipped["status"], skipped["steps"]) == (0, "completed", 23)
    assert rolled["params_sha256"] == skipped["params_sha256"]
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    reported = [(line["step"], line["split"]) for line in lines]
    assert reported == [(10, "train"), (20, "train"), (23, "eval")]


@pytest.mark.parametrize("run", covering(["1", "2 elastic"], default=["1"]), indirect=True)
def test_rollback_undoes_a_fault_of_the_machine_as_if_it_had_not_been(run):
    glitch = {"data_name": "support.nonfinite_data:glitching"}
    code, rolled, _ = run("rolled", on_nonfinite="rollback", **glitch)
    assert code == 0
    _, right, _ = run("right", data_name="digits")
    assert rolled["params_sha256"] == right["params_sha256"]
    _, skipped, _ = run("skipped", **glitch)
    assert skipped["params_sha256"] != right["params_sha256"], "the control"


# Reports, evaluations and a save lie between the snapshot gone back to and the bad window.
TOLD = {
    **BAD,
    "log_every_steps": 2,
    "eval_every_steps": 6,
    "loggers": ["jsonl", "csv", "tensorboard"],
    "callbacks": [{"early_stopping": {"patience": 50}}],
    "snapshot": {"every_steps": 7},
}


def test_what_was_told_of_the_steps_undone_is_told_once(train):
    rolled = train("rolled", **TOLD, on_nonfinite="rollback")
    skipped = train("skipped", **TOLD)
    assert without_rate(rolled.metrics) == without_rate(skipped.metrics)
    assert [line["step"] for line in rolled.metrics if line["split"] == "eval"] == [6, 12, 18, 23]
    texts = [(run.run_dir / "metrics.csv").read_text().splitlines() for run in (rolled, skipped)]
    assert texts[0] == texts[1]
    for tag in ("train/loss", "eval/loss"):
        both = [curve(run.run_dir / "tensorboard", tag) for run in (rolled, skipped)]
        assert both[0] == both[1] and both[0]
    states = [
        read_snapshot(run.run_dir / "checkpoints" / "snapshot_ep1").record.listeners
        for run in (rolled, skipped)
    ]
    assert states[0] == states[1]


def test_a_damaged_snapshot_is_not_gone_back_to(train):
    vandal = {"support.nonfinite_data:Vandal": {"name": "snapshot_step10"}}
    config = {**BAD, "on_nonfinite": "rollback", "callbacks": [vandal]}
    assert train("run", **config, stop_at_step=10).exit_code == 75
    run = train("run", **config, resume="latest")
    assert run.exit_code == 0
    quarantined = run.run_dir / "checkpoints" / "quarantine"
    assert [path.name for path in quarantined.iterdir()] == ["snapshot_step10"]
    right = train("right", **BAD)
    assert run.summary["params_sha256"] == right.summary["params_sha256"]


def test_without_a_snapshot_to_go_back_to_the_run_halts(train, monkeypatch):
    from aetheria.snapshots import store

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(store, "write_snapshot", full)
    run = train("full", **BAD, on_nonfinite="rollback")
    assert run.exit_code == 3
    assert run.summary["reason"].endswith("at step 13, and no snapshot to go back to")


@pytest.mark.parametrize("action", covering(["skip", "halt", "rollback"], default=["rollback"]))
def test_many_bad_windows_in_a_row_end_any_run(train, action):
    bad = {"data_params": {"steps": list(range(8, 18))}, "max_consecutive_skips": 4}
    run = train(action, **BAD, **bad, on_nonfinite=action)
    assert run.exit_code == 3
    last, in_a_row = (8, 1) if action == "halt" else (11, 4)
    reason = f"non-finite loss or gradient at step {last}, {in_a_row} in a row"
    assert run.summary["reason"] == reason


def test_a_resumed_run_heeds_another_policy(train):
    changes = {"data_params": {"steps": [2, 4, 6, 8, 20]}, "log_every_steps": 1}
    stopped = train("run", **BAD, **changes, stop_at_step=15)  # by now no skip stops for the host
    assert stopped.exit_code == 75
    resumed = train(
        "run", **BAD, **changes, on_nonfinite="halt", resume="latest", accept_changes=True
    )
    assert (resumed.exit_code, resumed.summary["steps"]) == (3, 20)
