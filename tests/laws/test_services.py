"""Laws of the loggers of services: they change no bit, and what they log is there exactly once."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import yaml
from support import services
from support.long import long_or
from support.runs import DIGITS, Finished

from aetheria.snapshots import read_snapshot

pytestmark = pytest.mark.slow

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio", "comet": "comet_ml"}
SERVICES = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
LOGGERS = ["jsonl", "csv", "tensorboard", *SERVICES, "killing"]
KILLS = (10, 40)[: long_or(1, 2)]  # the steps after which it is killed
TRAIN_STEPS, EVAL_STEPS = list(range(5, 70, 5)), [23, 46, 69]

KILLING = """
import os
import signal
import time

from aetheria import register_logger
from aetheria.events import SnapshotSaved, TrainMetrics


@register_logger("killing")
class Killing:
    def __init__(self, context):
        self.after, self.saved, self.seen = int(os.environ["KILL_AFTER"]), None, 0

    def notify(self, event):
        if isinstance(event, SnapshotSaved) and event.step >= self.after:
            self.saved = event.step
        elif isinstance(event, TrainMetrics) and event.progress.step >= self.after:
            time.sleep(0.2)  # a snapshot takes longer than these steps
            self.seen += self.saved is not None and event.progress.step > self.saved
            if self.seen == 2:
                os.kill(os.getpid(), signal.SIGKILL)
"""

SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery",
    "TRACKIO_WRITE_TOKEN": "trackio-write-token-1",
    "COMET_API_KEY": "comet-api-key-0123456789",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("services")
    (folder / "loggers").mkdir()
    (folder / "loggers" / "killing.py").write_text(KILLING)
    config = {**DIGITS, "epochs": 3, "log_every_steps": 5, "snapshot": {"every_steps": 10}}
    for name, loggers in {"all": LOGGERS, "none": []}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**config, "loggers": loggers}))
    return folder


@pytest.fixture(scope="module")
def train(folder):
    """Trains in a process of its own; nothing it sends could arrive. KILL_AFTER: a step."""
    offline = {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "COMET_ERROR_TRACKING_ENABLE": "0",
        "COMET_URL_OVERRIDE": "http://127.0.0.1:9",
        "TRACKIO_DIR": str(folder / "trackio"),
        "HF_HUB_OFFLINE": "1",
    }
    names = ("WANDB_", "MLFLOW_", "TRACKIO_", "COMET_", "HF_TOKEN")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(names)}

    def train(config, kill_after=10**9):
        options = [f"--workdir={config}", "--resume=auto"]
        done = subprocess.run(
            [sys.executable, "-m", "aetheria", "train", f"{config}.yaml", *options],
            cwd=folder,
            env={
                **environ,
                **offline,
                **SECRETS,
                "XLA_FLAGS": "",
                "KILL_AFTER": str(kill_after),
            },
            capture_output=True,
            text=True,
            timeout=200,
        )
        output = folder / f"{config}{kill_after}.txt"  # no secret may be there either
        output.write_text(done.stdout + done.stderr)
        return done

    return train


@pytest.fixture(scope="module")
def killed(train, folder):
    """A run with all loggers, killed each time after it logged beyond its last snapshot."""
    for kill_after in KILLS:
        done = train("all", kill_after)
        assert done.returncode == -9, done.stdout + done.stderr
        points = services.jsonl_curves(folder / "all")["train/loss"]
        saved = max(read_snapshot(p).record.progress.step for p in _snapshots(folder))
        assert points[-1][0] > saved, "something is logged again"
    done = train("all")
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(done.returncode, folder / "all")


def _snapshots(folder):
    return [p for p in (folder / "all" / "checkpoints").glob("snapshot_*") if _is_whole(p)]


def _is_whole(path):
    return (path / "manifest" / "commit_success.txt").exists()


def read(name, killed):
    """Through the service's own client, or from the file that it uploads."""
    match name:
        case "csv":
            return services.csv_curves(killed.run_dir)
        case "tensorboard":
            return services.tensorboard_curves(killed.run_dir)
        case "wandb":
            return services.wandb_curves(killed.run_dir)
        case "mlflow":
            return services.mlflow_curves(f"sqlite:///{killed.run_dir.parent}/mlflow.db")
        case "trackio":
            return services.trackio_curves(killed.run_dir.parent / "trackio")
        case _:
            return services.comet_curves(killed.run_dir)


def once(found, expected):
    """Whether every point of a run is there once, and in the order of its steps."""
    return found == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy 2.1, about MLflow
@pytest.mark.parametrize("name", ["csv", "tensorboard", *PACKAGES])
def test_a_run_that_is_killed_is_in_each_service_with_no_step_missing_or_twice(name, killed):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    expected = services.jsonl_curves(killed.run_dir)
    assert [step for step, _ in expected["train/loss"]] == TRAIN_STEPS
    assert [step for step, _ in expected["eval/accuracy"]] == EVAL_STEPS
    if name == "tensorboard":  # it keeps float32
        expected = {
            key: [(step, float(np.float32(value))) for step, value in points]
            for key, points in expected.items()
        }
    assert once(read(name, killed), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_check_sees_a_point_that_is_logged_again(killed, tmp_path):
    """The control: what a logger does that sends again what a resumed run emits again."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    shutil.copy(killed.run_dir.parent / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, expected = MlflowClient(uri), services.mlflow_curves(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("aetheria").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model_params.hidden_dim"] == "16"
    step, value = expected["train/loss"][3]
    client.log_metric(run.info.run_id, "train/again", value, step=step)
    client.log_metric(run.info.run_id, "train/again", value, step=step)
    assert services.mlflow_curves(uri)["train/again"] == [(step, value)] * 2
    assert not once(services.mlflow_curves(uri), expected)


def test_all_loggers_and_none_give_the_same_bits(killed, train, folder):
    done = train("none")
    assert done.returncode == 0, done.stderr
    plain = Finished(0, folder / "none")
    assert plain.summary["params_sha256"] == killed.summary["params_sha256"]
    assert killed.summary["detached_listeners"] == {}


def test_each_run_id_is_in_every_snapshot(killed):
    ids = {name: set() for name in SERVICES}
    for path in _snapshots(killed.run_dir.parent):
        listeners = read_snapshot(path).record.listeners
        for name in SERVICES:
            ids[name].add(listeners[name]["run_id"])
    assert all(len(found) == 1 and None not in found for found in ids.values()), ids


def test_no_secret_of_the_environment_is_in_what_a_run_writes(killed):
    files = [path for path in killed.run_dir.parent.rglob("*") if path.is_file()]
    written = {path: path.read_bytes() for path in files}
    for path in [path for path in files if path.suffix == ".zip"]:
        with zipfile.ZipFile(path) as archive:
            written |= {path / name: archive.read(name) for name in archive.namelist()}
    assert any(b"SimpleMLP" in content for content in written.values()), "the control"
    for name, secret in SECRETS.items():
        assert [path for path, text in written.items() if secret.encode() in text] == [], name
    starts = sorted((killed.run_dir / "starts").glob("*.json"))
    assert len(starts) == len(KILLS) + 1
    assert "--resume=auto" in json.loads(starts[0].read_text())["command"]
