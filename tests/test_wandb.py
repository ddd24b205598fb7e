"""Weights & Biases, the real library, offline: what its own file holds afterwards."""

import json
import math
import sys

import pytest
import yaml
from support.runs import DIGITS, Finished, without_rate
from support.services import wandb_records

from aetheria.cli.train import TrainCommand
from aetheria.engine.stop import StopSignal
from aetheria.errors import AetheriaError
from aetheria.events import Progress, RunEnded, RunStarted
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.records import RATES
from aetheria.observe.loggers.wandb import WandbLogger
from aetheria.snapshots import read_snapshot

wandb = pytest.importorskip("wandb")

CONFIG = {**DIGITS, "log_every_steps": 5, "loggers": ["jsonl", {"wandb": {"project": "digits"}}]}


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """Everything wandb writes goes into a folder of the test; nothing it sends could arrive."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder))
        for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_PROJECT"):
            patch.delenv(name, raising=False)
        yield
        wandb.teardown()


@pytest.fixture(scope="module")
def run(offline, tmp_path_factory):
    """A run stopped at step 25 and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))

    def train(**options):
        command = TrainCommand(config_file=file, workdir=folder / "run", **options)
        return Finished(command.execute(), folder / "run")

    assert train(stop_at_step=25).exit_code == 75
    return train(resume="latest")


@pytest.fixture(scope="module")
def sessions(run):
    """What each of the two processes wrote, in order: record type -> records."""
    wandb.teardown()  # finish() returns before wandb's own process has written everything (0.31)
    files = sorted(run.run_dir.glob("wandb/offline-run-*/*.wandb"))
    found = []
    for file in files:
        by_type = {}
        for record in wandb_records(file):
            kind = record.WhichOneof("record_type")
            by_type.setdefault(kind, []).append(getattr(record, kind))
        found.append(by_type)
    return found


def history(sessions):
    """The logged rows, without what wandb adds to them."""
    rows = []
    for session in sessions:
        for record in session["history"]:
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.item}
            rows.append({key: value for key, value in row.items() if is_value(key)})
    return rows


def is_value(key):
    """Not one of W&B's own, and not a rate, which `metrics.jsonl` rounds."""
    return not key.startswith("_") and key.removeprefix("train/") not in RATES


def expected_rows(metrics):
    other = ("micro_step", "examples_seen", "split", "num_examples")
    for record in without_rate(metrics):
        values = {k: v for k, v in record.items() if k not in other}
        counters = {name: values.pop(name) for name in ("step", "epoch")}
        yield {**counters, **{f"{record['split']}/{k}": v for k, v in values.items()}}


def test_the_history_equals_metrics_jsonl_with_no_step_missing_or_twice(run, sessions):
    assert run.exit_code == 0
    rows = history(sessions)
    assert rows == list(expected_rows(run.metrics))
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(5, 46, 5))
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [23, 46]
    assert all(math.isfinite(row["train/loss"]) for row in rows if "train/loss" in row)


def test_the_run_is_the_same_after_a_resume(run, sessions):
    assert len(sessions) == 2
    ids = {session["run"][0].run_id for session in sessions}
    for name in ("snapshot_step25", "snapshot_ep2"):
        record = read_snapshot(run.run_dir / "checkpoints" / name).record
        ids.add(record.listeners["wandb"]["run_id"])
    assert len(ids) == 1


def test_two_runs_have_two_ids(sessions, tmp_path):
    """The control: without the id from the snapshot, it is another run."""
    logger = WandbLogger(RunContext(run_dir=tmp_path, config={}, stop=StopSignal()), mode="offline")
    logger.notify(RunStarted(progress=Progress(), total_steps=1, steps_per_epoch=1, resumed=False))
    assert logger.export_state()["run_id"] != sessions[0]["run"][0].run_id
    logger.notify(RunEnded(progress=Progress(), status="completed", reason=""))


@pytest.mark.parametrize("is_fork", [False, True])
def test_a_fork_is_a_run_of_its_own(tmp_path, is_fork):
    context = RunContext(run_dir=tmp_path, config={}, stop=StopSignal(), is_fork=is_fork)
    logger = WandbLogger(context, mode="offline")
    logger.import_state({"run_id": "parent"})
    assert logger.export_state()["run_id"] == (None if is_fork else "parent")


def test_the_project_and_the_config_are_recorded(run, sessions):
    record = sessions[0]["run"][0]
    assert record.project == "digits"
    config = {item.key: json.loads(item.value_json) for item in record.config.update}
    assert config["model_name"] == "SimpleMLP"
    assert config["batch_size"] == 64


def test_curves_are_drawn_over_our_step(sessions):
    for session in sessions:
        axes = {(m.name, m.glob_name): m.step_metric for m in session["metric"]}
        assert axes[("", "*")] == "step"


def test_only_a_completed_run_is_marked_as_successful(sessions):
    assert [session["exit"][0].exit_code for session in sessions] == [1, 0]


def test_a_missing_wandb_is_one_line_before_anything_is_written(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AetheriaError, match=r"pip install 'aetheria\[wandb\]'") as error:
        train("run", loggers=["wandb"])
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "of"}, "expected online, offline or disabled, got 'of'"),
        ({"tagz": ["a"]}, "got 'tagz'"),
        ({"id": "mine"}, "other than dir, config, id, resume, got 'id'"),
    ],
)
def test_a_wrong_argument_is_one_line_before_anything_is_written(
    train, tmp_path, arguments, message
):
    with pytest.raises(AetheriaError, match=message) as error:
        train("run", loggers=[{"wandb": arguments}])
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_before_it_starts_leaves_no_trace(tmp_path):
    logger = WandbLogger(RunContext(run_dir=tmp_path, config={}, stop=StopSignal()))
    logger.notify(RunEnded(progress=Progress(), status="failed", reason=""))
    assert list(tmp_path.iterdir()) == []
