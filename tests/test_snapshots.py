"""Snapshots: what is written, how damage is found, and what a `--resume` takes."""

import json
import random
import shutil

import numpy as np
import pytest
from support.damage import cut, files_of, flip
from support.records import make_record

from aetheria.errors import SnapshotError
from aetheria.snapshots import SnapshotStore, read_snapshot
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.store import list_snapshots

ARRAYS = {
    "params/Dense_0/kernel": np.arange(600, dtype=np.float32).reshape(20, 30),
    "opt_state/0/count": np.array(3, np.int32),
    "base_key": np.array([0, 7], np.uint32),
}


@pytest.fixture
def store(tmp_path):
    return SnapshotStore(tmp_path / "checkpoints", Retention(keep_last=3))


def save(store, name, record, arrays=ARRAYS):
    store.save(name, arrays, record)
    return store.finished(wait=True)


def test_a_snapshot_is_read_back_bit_for_bit(store, tmp_path):
    (event,) = save(store, "snapshot_ep1", make_record(5, {"eval/loss": 0.5}))
    assert (event.name, event.step) == ("snapshot_ep1", 5)
    snapshot = read_snapshot(tmp_path / "checkpoints" / "snapshot_ep1")
    assert list(snapshot.arrays) == list(ARRAYS)
    for path, array in ARRAYS.items():
        assert snapshot.arrays[path].dtype == array.dtype
        np.testing.assert_array_equal(snapshot.arrays[path], array)
    assert snapshot.record.progress.step == 5


def test_what_a_living_run_retires_is_no_damaged_snapshot_to_one_who_lists_them(tmp_path):
    store = SnapshotStore(tmp_path, Retention(keep_last=1, keep_best=0))
    save(store, "snapshot_step0", make_record(0))
    for step in range(1, 20):
        store.save(f"snapshot_step{step}", ARRAYS, make_record(step))
        while store.busy():
            assert all(info.step <= step for info in list_snapshots(tmp_path))
        store.finished()


def test_orbax_reads_the_state_of_a_run(train):
    import orbax.checkpoint as ocp

    run = train(epochs=1)
    path = run.run_dir / "checkpoints" / "snapshot_ep1"
    with ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(path.resolve() / "state")
    ours = read_snapshot(path).arrays
    kernel = state["params"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(kernel, ours["params/Dense_0/kernel"])
    assert state["counters"][0] == 23


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_found_or_harmless_and_never_loaded_wrong(store, tmp_path, seed):
    save(store, "snapshot_ep1", make_record(5))
    path = tmp_path / "checkpoints" / "snapshot_ep1"
    chance = random.Random(seed)
    damage = cut if chance.random() < 0.3 else flip
    damage(chance, chance.choice(files_of(path)))
    try:
        snapshot = read_snapshot(path)
    except SnapshotError as refused:
        told = refused
    else:
        told = None
    if told is not None:
        assert str(path) in str(told)
        assert len(told.problems) == 1
        return
    for leaf, array in ARRAYS.items():
        np.testing.assert_array_equal(snapshot.arrays[leaf], array)
    assert snapshot.record == make_record(5)


def flip_a_leaf(path, leaf):
    """Rewrites a snapshot through Orbax with one bit of one leaf flipped, as a bad disk would."""
    import orbax.checkpoint as ocp

    snapshot = read_snapshot(path)
    arrays = {name: np.array(array) for name, array in snapshot.arrays.items()}
    arrays[leaf].view(np.uint8).reshape(-1)[0] ^= 1
    nested = {}
    for name, array in arrays.items():
        node = nested
        for part in name.split("/")[:-1]:
            node = node.setdefault(part, {})
        node[name.split("/")[-1]] = array
    shutil.rmtree(path / "state")
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.resolve() / "state", nested)


def test_a_flipped_bit_is_found_and_its_leaf_named(store, tmp_path):
    save(store, "snapshot_ep1", make_record(5))
    path = tmp_path / "checkpoints" / "snapshot_ep1"
    flip_a_leaf(path, "params/Dense_0/kernel")
    with pytest.raises(SnapshotError, match="leaf 'params/Dense_0/kernel'"):
        read_snapshot(path)


def test_a_failed_save_is_an_event_and_earlier_snapshots_stay(store, tmp_path):
    save(store, "snapshot_ep1", make_record(5))
    (tmp_path / "checkpoints" / "snapshot_ep2").write_text("in the way")
    (event,) = save(store, "snapshot_ep2", make_record(10))
    assert type(event).__name__ == "SnapshotFailed"
    assert "\n" not in event.reason
    assert read_snapshot(tmp_path / "checkpoints" / "snapshot_ep1").record.progress.step == 5
    (event,) = save(store, "snapshot_ep3", make_record(15))
    assert type(event).__name__ == "SnapshotSaved"


def test_retention_keeps_the_newest_and_the_best(store, tmp_path):
    losses = [0.9, 0.1, 0.5, float("nan"), 0.4, 0.3]
    for number, loss in enumerate(losses, 1):
        save(store, f"snapshot_ep{number}", make_record(number, {"eval/loss": loss}))
    kept = [info.path.name for info in list_snapshots(tmp_path / "checkpoints")]
    assert kept == ["snapshot_ep2", "snapshot_ep4", "snapshot_ep5", "snapshot_ep6"]
    assert store.best()["snapshot"] == "snapshot_ep2"


def test_a_metric_of_another_step_makes_no_snapshot_the_best(tmp_path):
    record = make_record(7, {"eval/loss": 0.1}, eval_step=5)
    assert SnapshotInfo.of(tmp_path, record).metrics == {}


def test_leftovers_of_a_killed_save_are_removed(store, tmp_path):
    leftover = tmp_path / "checkpoints" / "snapshot_ep9.orbax-checkpoint-tmp-1"
    leftover.mkdir(parents=True)
    save(store, "snapshot_ep1", make_record(5))
    assert not leftover.exists()
    assert [i.path.name for i in list_snapshots(tmp_path / "checkpoints")] == ["snapshot_ep1"]


def checkpoints(run):
    return run.run_dir / "checkpoints"


def damage(path):
    (path / "state" / "manifest.ocdbt").write_bytes(b"nothing")


def test_latest_passes_over_a_damaged_snapshot_and_keeps_it_aside(train, capsys):
    whole = train("whole", epochs=3)
    train("run", epochs=3, stop_at_step=50)
    run_dir = whole.run_dir.parent / "run"
    damage(run_dir / "checkpoints" / "snapshot_step50")
    resumed = train("run", epochs=3, resume="latest")
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    told = capsys.readouterr().out
    assert "snapshot_step50: expected an undamaged snapshot" in told
    assert "snapshot_ep2 (step 46, epoch 2, verified)" in told
    assert (checkpoints(resumed) / "quarantine" / "snapshot_step50").is_dir()
    steps = [line["step"] for line in resumed.metrics if line["split"] == "train"]
    assert steps == [line["step"] for line in whole.metrics if line["split"] == "train"]


@pytest.mark.parametrize("resume", ["latest", "auto", "23", "checkpoints/snapshot_ep1"])
def test_a_damaged_snapshot_with_no_other_is_refused_and_left_alone(train, resume):
    run = train("run", epochs=1)
    damage(checkpoints(run) / "snapshot_ep1")
    before = sorted(run.run_dir.rglob("*"))
    with pytest.raises(SnapshotError, match="snapshot_ep1: expected an undamaged snapshot"):
        train("run", epochs=1, resume=resume)
    assert sorted(run.run_dir.rglob("*")) == before


def test_resuming_an_older_snapshot_forks(train):
    whole = train("run", epochs=3)
    before = (whole.run_dir / "metrics.jsonl").read_text()
    fork = train("fork", epochs=3, resume=f"{whole.run_dir}/checkpoints/snapshot_ep2.pt").run_dir
    summary = json.loads((fork / "summary.json").read_text())
    assert summary["params_sha256"] == whole.summary["params_sha256"]
    assert summary["lineage"]["snapshot"] == "snapshot_ep2"
    assert json.loads((fork / "config.json").read_text())["lineage"]["step"] == 46
    assert (whole.run_dir / "metrics.jsonl").read_text() == before
    rows = lambda text: [json.loads(line)["step"] for line in text.splitlines()]
    assert rows((fork / "metrics.jsonl").read_text()) == rows(before)


def test_a_fork_keeps_the_curves_that_led_to_it(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def eval_steps(run_dir):
        reader = EventAccumulator(str(run_dir / "tensorboard")).Reload()
        return [point.step for point in reader.Scalars("eval/loss")]

    whole = train("run", epochs=3, loggers=["tensorboard"])
    fork = train("fork", epochs=3, loggers=["tensorboard"], resume=f"{whole.run_dir}@23")
    assert eval_steps(fork.run_dir) == eval_steps(whole.run_dir) == [23, 46, 69]


def test_a_run_goes_on_in_its_folder_from_its_newest_snapshot_alone(train):
    """An older one asked for with that folder would write into another, unasked."""
    run = train("run", epochs=2)
    before = {path: path.stat().st_mtime_ns for path in run.run_dir.rglob("*")}
    with pytest.raises(
        SnapshotError, match=r"--workdir: expected another folder than .*snapshot_ep1"
    ):
        train("run", epochs=2, resume="23")
    assert {path: path.stat().st_mtime_ns for path in run.run_dir.rglob("*")} == before
    assert not (run.run_dir.parent / "runs").exists()


def test_best_takes_the_best(train):
    run = train("run", epochs=3)
    best = run.summary["best"]
    losses = {line["step"]: line["loss"] for line in run.metrics if line["split"] == "eval"}
    assert best["step"] == min(losses, key=losses.get)
    assert best["value"] == losses[best["step"]]


def test_a_finished_run_has_nothing_to_resume_and_says_so(train):
    run = train("run", epochs=1)
    again = train("run", epochs=1, resume="latest")
    assert again.exit_code == 0
    assert again.summary["params_sha256"] == run.summary["params_sha256"]
    assert again.summary["steps"] == 23


def test_a_changed_config_is_compared_on_resume(train):
    train("run", stop_at_step=5)
    with pytest.raises(SnapshotError, match="learning_rate as in the snapshot"):
        train("run", resume="latest", learning_rate=0.1)
    with pytest.raises(SnapshotError, match="start a new run"):
        train("run", resume="latest", data_name="diabetes")
    accepted = train("run", resume="latest", learning_rate=0.1, accept_changes=True)
    assert accepted.exit_code == 0


def test_free_fields_may_change_on_resume(train, capsys):
    whole = train("whole")
    train("run", stop_at_step=5)
    changed = train("run", resume="latest", log_every_steps=23)
    assert changed.summary["params_sha256"] == whole.summary["params_sha256"]
    assert "log_every_steps: 10 -> 23" in capsys.readouterr().out


def test_more_epochs_go_on_from_a_finished_run(train):
    train("run", epochs=1)
    longer = train("run", epochs=2, resume="latest", accept_changes=True)
    assert longer.summary["steps"] == 46
