"""`aetheria prove replay`: what a run recorded is what its config gives; a change is found."""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.compile_cache import users_compilation
from support.damage import flip, largest_file
from support.long import covering, covering_rows
from support.nonfinite_data import BAD
from support.runs import DIGITS

import aetheria
from aetheria.data.datasets import digits
from aetheria.engine.record import ImportedFrom
from aetheria.errors import AetheriaError
from aetheria.hardware.virtual_devices import flags_for_devices
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.run_lock import RunLock
from aetheria.snapshots.snapshot_files import write_snapshot
from aetheria.tools.prove.replay.group import replay_group
from aetheria.tools.prove.replay.intervals import Choice
from aetheria.tools.prove.replay.proof import ReplayProof
from aetheria.tools.prove.replay.setup import Setup

# Dropout, accumulation, padding, a listener with a state. A step snapshot may be left out while the
# disk is busy; those at the end of an epoch are not.
EVENTFUL = {
    "epochs": 3,
    "grad_accumulation_steps": 2,
    "eval_every_steps": 4,
    "log_every_steps": 3,
    "callbacks": [{"early_stopping": {"monitor": "eval/accuracy", "mode": "max", "patience": 50}}],
}
ALL = Choice(everything=True)


def replay(run_dir, choice=ALL, project=None, **setup):
    """The verdict of a proof in this process, which has eight virtual devices."""
    setup = Setup(project=Path(project or run_dir.parent), **setup)
    proof = ReplayProof(run_dir=run_dir, choice=choice, setup=setup, replay=replay_group)
    return proof.run(lambda line: None)


def rewrite(snapshot, arrays=None, **changes):
    """Writes a snapshot anew with other arrays or another record; its digests are valid."""
    old = read_snapshot(snapshot)
    shutil.rmtree(snapshot)
    write_snapshot(snapshot, {**old.arrays, **(arrays or {})}, replace(old.record, **changes))


def with_one_bit_changed(array, index=0, bit=0):
    raw = bytearray(np.ascontiguousarray(array).tobytes())
    raw[index] ^= 1 << bit
    return np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)


@pytest.fixture(scope="module")
def finished(train_once):
    return train_once("eventful", **EVENTFUL).run_dir


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run in another place, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "elsewhere" / "copy"))


def files_of(folder):
    return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}


def test_every_interval_of_a_finished_run_has_the_same_bits(finished):
    before = files_of(finished)
    verdict = replay(finished)
    assert verdict.holds and verdict.notes == []
    spans = [(row.interval.start_step, row.interval.end_step) for row in verdict.rows]
    assert spans == [(0, 23), (23, 46), (46, 69)]
    assert [row.num_examples for row in verdict.rows] == [1438] * 3
    # Every third step is logged, every fourth and the last of all are evaluated.
    assert [row.num_lines for row in verdict.rows] == [12, 14, 15]
    assert verdict.rows[0].num_leaves > 10
    assert files_of(finished) == before, "a run is only read"


@pytest.mark.parametrize(
    ("choice", "spans"),
    [
        (Choice(), [(46, 69)]),
        (Choice(first_step=0, last_step=46), [(0, 23), (23, 46)]),
        (Choice(first_step=23), [(23, 46), (46, 69)]),
        (Choice(last_step=23), [(0, 23)]),
        (Choice(sample=2, seed=1), [(0, 23), (46, 69)]),
    ],
)
def test_the_intervals_that_are_asked_for_are_replayed(finished, choice, spans):
    verdict = replay(finished, choice)
    found = [(row.interval.start_step, row.interval.end_step) for row in verdict.rows]
    assert verdict.holds and found == spans


@pytest.mark.parametrize("leaf", ["params", "opt_state", "counters", "base_key"])
def test_one_bit_of_a_snapshot_is_found_and_named(copied, leaf):
    snapshot = copied / "checkpoints" / "snapshot_ep2"
    arrays = read_snapshot(snapshot).arrays
    path = next(p for p in arrays if p.startswith(leaf))
    rewrite(snapshot, {path: with_one_bit_changed(arrays[path])})
    before, after = replay(copied, Choice(first_step=23)).rows
    assert [(d.what, d.step) for d in before.differences] == [(path, 46)]
    assert after.differences, "what follows begins with that bit"
    assert replay(copied, Choice(last_step=23)).holds


def test_another_learning_rate_in_a_record_is_found(copied):
    snapshot = copied / "checkpoints" / "snapshot_ep3"
    run = read_snapshot(snapshot).record.run
    rewrite(snapshot, run=replace(run, config={**run.config, "learning_rate": 0.004}))
    verdict = replay(copied, Choice())
    unexplained, _ = map(str, verdict.differences)  # and back, to config.json
    assert unexplained.startswith("record: learning_rate at step 46: 0.003 -> 0.004, from ")
    assert unexplained.endswith("and no process started there")
    found = {d.what for d in verdict.rows[0].differences}
    assert {"train/learning_rate", "record: run.model_params.learning_rate"} <= found
    assert any(what.startswith("params/") for what in found)


@pytest.mark.parametrize("where", ["start", "config.json"])
def test_another_learning_rate_that_no_step_was_computed_with_is_found(copied, where):
    if where == "start":
        snapshot = copied / "checkpoints" / "snapshot_ep2"
        run = read_snapshot(snapshot).record.run
        rewrite(snapshot, run=replace(run, config={**run.config, "learning_rate": 0.004}))
    else:
        file = copied / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "learning_rate": 0.004}))
    verdict = replay(copied, Choice())
    assert verdict.first is not None and verdict.first.what == "record: learning_rate"
    assert verdict.rows[0].differences == []


def changed_line(line, values):
    return json.dumps({**values, "loss": np.nextafter(values["loss"], 9.0)})


@pytest.mark.parametrize(
    ("change", "what", "step"),
    [
        (changed_line, "train/loss", 48),
        (lambda line, values: None, "metric line of train", 48),
        (lambda line, values: f"{line}\n{line}", "metric line of train", 48),
    ],
)
def test_one_metric_line_is_found_and_named(copied, change, what, step):
    file = copied / "metrics.jsonl"
    lines = []
    for line in file.read_text().splitlines():
        values = json.loads(line)
        chosen = (values["split"], values["step"]) == ("train", step)
        lines.append(change(line, values) if chosen else line)
    file.write_text("".join(f"{line}\n" for line in lines if line is not None))
    verdict = replay(copied, Choice())
    assert verdict.first is not None
    assert (verdict.first.what, verdict.first.step) == (what, step)


def test_a_run_that_was_killed_resumed_and_moved_replays(train, tmp_path):
    stopped = train("run", **EVENTFUL, stop_at_step=30)
    # As after a kill: what came after the last snapshot that is whole is done again.
    shutil.rmtree(stopped.run_dir / "checkpoints" / "snapshot_step30")
    train("run", **EVENTFUL, resume="latest", stop_at_step=50)
    resumed = train("run", **EVENTFUL, resume="latest")
    moved = tmp_path / "archive" / "2026"
    moved.parent.mkdir()
    resumed.run_dir.rename(moved)
    verdict = replay(moved, project=tmp_path)
    assert verdict.holds and verdict.notes == []
    ends = [row.interval.end.name for row in verdict.rows]
    assert ends == ["snapshot_ep1", "snapshot_ep2", "snapshot_step50", "snapshot_ep3"]


def test_a_run_resumed_with_another_config_replays_each_part_under_its_own(train):
    train("run", **EVENTFUL, stop_at_step=30)
    changes = {"learning_rate": 0.01, "log_every_steps": 5}
    resumed = train("run", **{**EVENTFUL, **changes}, resume="latest", accept_changes=True)
    verdict = replay(resumed.run_dir)
    assert verdict.holds
    assert verdict.notes[0].startswith("the run was resumed with another config: learning_rate: ")
    shutil.rmtree(resumed.run_dir / "checkpoints" / "snapshot_step30")
    verdict = replay(resumed.run_dir, Choice(last_step=46))
    assert not verdict.holds and "a process started at step 30" in verdict.notes[-1]


@pytest.mark.parametrize("step", covering([23, 69], default=[69]))
def test_an_evaluation_that_was_cut_short_replays_on_both_sides(train, step):
    config = {"epochs": 3, "log_every_steps": 23}
    stopper = {"support.stopper:Stopper": {"step": step}}
    stopped = train("run", **config, callbacks=[stopper])
    assert stopped.exit_code == 75 and replay(stopped.run_dir, Choice()).holds
    resumed = train("run", **config, resume="latest")
    verdict = replay(resumed.run_dir)
    assert verdict.holds
    evaluated = next(r for r in verdict.rows if r.interval.start_step == r.interval.end_step)
    assert (evaluated.interval.end_step, evaluated.num_lines) == (step, 2)


@pytest.mark.parametrize("action", covering(["skip", "halt", "rollback"], default=["rollback"]))
def test_a_run_with_a_non_finite_global_batch_replays(train, action):
    bad = {**BAD, "data_params": {"steps": [13, 20]}, "on_nonfinite": action, "epochs": 2}
    run = train("run", **bad)
    assert replay(run.run_dir, data_name=BAD["data_name"]).holds


PROJECT = {
    "data/parts.py": """
from aetheria import register_data
from aetheria.data.datasets import digits
from aetheria.data.sources import DataSplits

@register_data("parts")
def parts():
    split = digits()
    return DataSplits(train=split.train, eval=split.eval, test=split.eval)
""",
    "callbacks/service.py": """
from pathlib import Path
from aetheria import register_callback
from aetheria.events import TrainMetrics

@register_callback("Service")
class Service:
    def __init__(self, context):
        Path("made").touch()
        self._stop = context.stop

    def notify(self, event):
        if isinstance(event, TrainMetrics) and event.progress.step == 27:
            self._stop.request("enough")

    def export_state(self):
        return {"calls": 1}
""",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "callback",
    covering(
        {"early stopping": {"early_stopping": {"patience": 1, "min_delta": 9.0}}, "own": "Service"},
        default=["own"],
    ),
)
def test_a_run_that_a_callback_completed_replays_with_its_test_and_without_the_callback(
    train, project, callback
):
    run = train("run", **{**EVENTFUL, "data_name": "parts", "callbacks": [callback]})
    assert run.exit_code == 0 and run.summary["steps"] < 69
    (project / "made").unlink(missing_ok=True)
    verdict = replay(run.run_dir, project=project)
    assert verdict.holds and not (project / "made").exists()
    other = callback == "Service"
    assert [n for n in verdict.notes if n.endswith("that do not run again: Service")] == (
        verdict.notes if other else []
    )
    assert len(verdict.notes) == other


def test_what_is_not_as_recorded_is_said_first(copied):
    snapshot = copied / "checkpoints" / "snapshot_ep3"
    run = read_snapshot(snapshot).record.run
    assert run.provenance is not None
    machine = {**run.provenance.machine, "processor": "Z80"}
    other = replace(
        run,
        versions={**run.versions, "jax": "0.1.2"},
        provenance=replace(run.provenance, machine=machine),
    )
    rewrite(snapshot, run=other)
    said = []
    setup = Setup(project=copied.parent)
    proof = ReplayProof(run_dir=copied, choice=Choice(), setup=setup, replay=replay_group)
    assert proof.run(said.append).holds
    assert [line.split(": ")[1] for line in said[:2]] == ["machine.processor", "versions.jax"]
    assert said[2].startswith("steps 46 -> 69: done in ")


def test_a_changed_example_is_found_and_the_data_named(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(80, 64)).astype(np.float32), np.arange(80, dtype=np.int32)
    np.savez("data.npz", inputs=inputs, labels=labels % 10)
    config = {"data_name": "npz", "data_params": {"file": "data.npz"}, "batch_size": 16}
    run = train("run", **config).run_dir
    assert replay(run).holds
    inputs[3, 5] += 0.01
    np.savez("data.npz", inputs=inputs, labels=labels % 10)
    verdict = replay(run)
    assert not verdict.holds and "other values in row" in verdict.notes[0]
    assert verdict.notes[0].startswith("changed since the snapshot: data.")


@pytest.mark.uncached
@pytest.mark.parametrize("devices", covering([2, 8], default=[2]))
def test_elastic_has_the_same_bits_on_another_number_of_devices(train, devices):
    run = train("run", reproducibility="elastic", spot_check_every=10).run_dir
    verdict = replay(run, Choice(), num_devices=devices)
    assert verdict.holds and verdict.devices[0].startswith(f"{devices} CPU devices")


def test_fast_is_replayed_on_the_devices_of_its_record(train):
    run = train("run", strategy="mesh", mesh={"data": 2}, epochs=1).run_dir
    assert replay(run).holds
    with pytest.raises(AetheriaError, match="--devices: expected 2, as in the record, since the b"):
        replay(run, num_devices=1)
    assert replay(run, num_devices=1, tolerance=1e-3).holds
    assert not replay(run, num_devices=1, tolerance=1e-9).holds, "the control"


def test_a_damaged_snapshot_is_named(copied):
    flip(random.Random(1), largest_file(copied / "checkpoints" / "snapshot_ep2"))
    verdict = replay(copied)
    first, *others = verdict.rows
    assert first.differences == []
    assert [str(row.differences[0])[:19] for row in others] == ["snapshot at step 46"] * 2
    assert "got leaf '" in str(verdict.first)
    (copied / "checkpoints" / "snapshot_ep3" / "record" / "metadata").write_text("{")
    assert str(replay(copied, Choice()).differences[0]).startswith("snapshot: snapshot_ep3: ")


def test_a_fork_replays_from_its_origin_while_that_is_there(train, finished, copied):
    origin = f"{copied}@46"
    options = {"learning_rate": 0.01, "accept_changes": True}
    fork = train("fork", **{**EVENTFUL, **options}, resume=origin).run_dir
    verdict = replay(fork)
    assert verdict.holds and [row.interval.name for row in verdict.rows] == ["46 -> 69"]
    shutil.rmtree(copied)
    with pytest.raises(AetheriaError, match=r"from snapshot_ep2 of .*, which is not there; put it"):
        replay(fork)


def test_imported_weights_are_where_a_replay_begins(copied):
    snapshot = copied / "checkpoints" / "snapshot_ep1"
    run = read_snapshot(snapshot).record.run
    rewrite(snapshot, run=replace(run, lineage=ImportedFrom(file="weights.npz")))
    verdict = replay(copied)
    assert verdict.holds and [row.interval.name for row in verdict.rows] == ["23 -> 46", "46 -> 69"]
    assert verdict.notes[0].startswith("not replayed: the interval that leads to snapshot_ep1 from")


def test_a_record_of_other_devices_or_of_an_import_path_is_refused(copied):
    snapshot = copied / "checkpoints" / "snapshot_ep3"
    run = read_snapshot(snapshot).record.run
    assert run.provenance is not None
    machine = {**run.provenance.machine, "platform": "gpu"}
    rewrite(snapshot, run=replace(run, provenance=replace(run.provenance, machine=machine)))
    with pytest.raises(AetheriaError, match="expected the devices of its record, 1 of gpu, since"):
        replay(copied, Choice())
    free = replace(run, config={**run.config, "reproducibility": "none"})
    rewrite(snapshot, run=replace(free, provenance=replace(run.provenance, machine=machine)))
    with pytest.raises(AetheriaError, match="got none, with which a GPU gives other bits"):
        replay(copied, Choice())
    machine |= {"num_processes": 2, "num_devices": 2}
    rewrite(snapshot, run=replace(run, provenance=replace(run.provenance, machine=machine)))
    with pytest.raises(AetheriaError, match="got reproducibility fast and 2 processes; compare wi"):
        replay(copied, Choice())
    rewrite(snapshot, run=replace(run, config={**run.config, "data_name": "os:getcwd"}))
    with pytest.raises(AetheriaError, match="got the import path 'os:getcwd', which a file may"):
        replay(copied, Choice())


def test_a_run_under_way_is_replayed_as_far_as_its_snapshots_go(copied):
    lock = RunLock(copied)
    lock.acquire()
    try:
        verdict = replay(copied, Choice())
    finally:
        lock.release()
    assert verdict.holds and verdict.notes[0].startswith("the run is still under way, in process")


def test_what_cannot_be_replayed_is_one_line(tmp_path, finished):
    aetheria.train(
        model_name="SimpleMLP",
        data=digits(),
        epochs=1,
        model_params={"num_classes": 10},
        workdir=tmp_path / "given",
        loggers=[],
    )
    for run, message in (
        (tmp_path / "given", "expected a run that names its dataset, got one that a program gave"),
        (finished.parent, f"expected a run with snapshots, got none; name one .*: {finished}"),
    ):
        with pytest.raises(AetheriaError, match=message) as caught:
            replay(run)
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all", "--sample=2"], "--sample: expected it without --all, got both; leave one out"),
        (["--from=24"], "--from: expected the step of a snapshot, 0, 23, 46, got 24; use one of"),
        (["--from=46", "--to=23"], "--to: expected a step after that of --from (46), got 23; "),
        (["--tolerance=0"], "expected a number above 0, got '0'"),
    ],
)
def test_a_mistake_is_refused_in_one_line(command, finished, options, message):
    done = command("prove", "replay", finished, *options)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


CNN = {
    "model_name": "SimpleCNN",
    "model_params": {"conv_dims": [4, 8], "hidden_dim": 8, "num_classes": 10, "batch_norm": True},
    "data_name": "npz",
    "data_params": {"file": "pictures.npz"},
}
LANGUAGE = {
    "model_name": "Transformer",
    "model_params": {"num_layers": 2, "width": 32, "num_heads": 4, "max_length": 16},
    "data_name": "tokens",
    "data_params": {"path": "text.txt", "length": 16},
}
MODELS = {"mlp": {}, "cnn": CNN, "transformer": LANGUAGE}


PLACES = {"elastic": ([], ["--devices=1"], ["--devices=8"]), "fast": ([],)}
CASES = {
    f"{model} {level} on {devices}": (model, level, devices, PLACES[level])
    for model in MODELS
    for level in PLACES
    for devices in (1, 8)
}
SHORT = {"mlp elastic from 1 to 2": ("mlp", "elastic", 1, (["--devices=2"],))}


@pytest.mark.slow
@pytest.mark.uncached
@pytest.mark.parametrize(
    ("model", "level", "devices", "places"), covering_rows({**SHORT, **CASES}, default=SHORT)
)
def test_the_command_holds_on_any_devices_and_fails_for_one_bit(
    cli, tmp_path, model, level, devices, places
):
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(160, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(0, 10, size=160).astype(np.int32)
    np.savez(tmp_path / "pictures.npz", inputs=pictures, labels=labels)
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 80)
    config = {**DIGITS, "batch_size": 32, "strategy": "mesh", "reproducibility": level}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, **MODELS[model]}))
    environ = {**os.environ, "XLA_FLAGS": "", **users_compilation()}
    flags = {"XLA_FLAGS": flags_for_devices({}, devices)}
    trained = cli("train", "config.yaml", "--workdir=run", "--quiet", env={**environ, **flags})
    assert trained.returncode == 0, trained.stderr
    for place in places:
        done = cli("prove", "replay", "run", "--all", *place, env=environ)
        assert done.returncode == 0, done.stdout + done.stderr
        verdict = done.stdout.splitlines()[-1]
        print(verdict)
        assert verdict.startswith("replay: 2 of 2 ") and verdict.endswith(": the same bits")
    snapshot = tmp_path / "run" / "checkpoints" / "snapshot_ep2"
    arrays = read_snapshot(snapshot).arrays
    path = next(p for p in arrays if p.startswith("params/"))
    rewrite(snapshot, {path: with_one_bit_changed(arrays[path])})
    done = cli("prove", "replay", "run", "--json", *places[-1], env=environ)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    first = found["first_difference"]
    assert (first["what"], first["step"]) == (path, found["intervals"][-1]["to_step"])
    assert first["detail"].startswith("1 of ") and not found["same"]
