"""A signal while the run compiles, steps, evaluates, saves: it leaves with 75, and goes on as if
nothing had happened.
"""

import os
import subprocess
import sys

import pytest
import yaml
from support.long import covering, covering_rows
from support.runs import DIGITS, Finished, without_rate

from aetheria.snapshots.run_lock import HOLDER

pytestmark = pytest.mark.slow

# Each sends this process the signal that the environment names, once, at the moment it names.
PROJECT = """
import os
import signal
import numpy as np
from aetheria.data import DataSplits
from aetheria.training import summary
from aetheria.data.sources import ArraySource
from aetheria.events import PhaseChanged
from aetheria.models.mlp import SimpleMLP

sent, trains = [], []


def send(moment):
    if os.environ.get("MOMENT") == moment and not sent:
        sent.append(moment)
        os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))


class TellingModel(SimpleMLP):
    def loss(self, *args, **kwargs):
        if trains:  # it is traced when it is built, too
            send("compile")
        return super().loss(*args, **kwargs)


class TellingSource(ArraySource):
    moment = "step"

    def read(self, indices):
        if trains:  # it is read when the feed is made, too
            send(self.moment)
        return super().read(indices)


def telling_data():
    send("start")
    rng = np.random.default_rng(0)
    columns = {"inputs": rng.random((320, 64), np.float32), "labels": np.arange(320) % 10}
    train, evaluation = TellingSource(columns), TellingSource(columns)
    evaluation.moment = "evaluation"
    return DataSplits(train=train, eval=evaluation)


def versions():
    send("summary")
    return told_before()


told_before, summary.versions = summary.versions, versions


class Teller:
    def __init__(self, context):
        pass

    def notify(self, event):
        if isinstance(event, PhaseChanged):
            trains.append(event)
            if event.target == "saving":
                send("save")
"""


def trainer(folder):
    """Trains in a process of its own: `start("run", "SIGTERM", "save")`."""
    (folder / "telling.py").write_text(PROJECT)
    config = {
        **DIGITS,
        "model_name": "telling:TellingModel",
        "data_name": "telling:telling_data",
        "callbacks": ["telling:Teller"],
        "epochs": 4,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    def run(name, signal="", moment="", *options):
        command = [sys.executable, "-m", "aetheria", "train", "config.yaml", f"--workdir={name}"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "SIGNAL": signal,
            "MOMENT": moment,
        }
        done = subprocess.run(
            [*command, *options],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Finished(done.returncode, folder / name)

    return run


SIGNALS = ["SIGTERM", "SIGINT", "SIGUSR1"]
MOMENTS = {
    f"{moment}-{signal}": (moment, signal)
    for moment in ("compile", "step", "evaluation", "save")
    for signal in SIGNALS
}


@pytest.mark.parametrize(
    ("moment", "signal"),
    covering_rows(MOMENTS, default=["compile-SIGTERM", "save-SIGUSR1"]),
)
def test_a_signal_at_any_moment_ends_with_75_and_costs_nothing(tmp_path, whole, signal, moment):
    start = trainer(tmp_path)
    stopped = start("run", signal, moment)
    assert stopped.exit_code == 75
    assert signal in stopped.summary["reason"]
    assert 0 < stopped.summary["steps"] < 20
    resumed = start("run", "", "", "--resume=latest")
    assert resumed.exit_code == 0
    assert resumed.summary["params_sha256"] == whole["params_sha256"]
    assert without_rate(resumed.metrics) == whole["metrics"]


@pytest.mark.parametrize("signal", covering(SIGNALS, default=["SIGTERM"]))
def test_a_signal_before_there_is_a_run_ends_with_75_and_leaves_nothing(tmp_path, signal):
    assert trainer(tmp_path)("run", signal, "start").exit_code == 75
    assert not (tmp_path / "run").exists()


def test_a_signal_after_the_run_ends_with_75_and_gives_the_folder_back(tmp_path, whole):
    start = trainer(tmp_path)
    ended = start("run", "SIGTERM", "summary")
    assert ended.exit_code == 75 and not (ended.run_dir / "summary.json").exists()
    assert not (ended.run_dir / HOLDER).exists()
    resumed = start("run", "", "", "--resume=auto")
    assert resumed.exit_code == 0
    assert resumed.summary["params_sha256"] == whole["params_sha256"]
    assert without_rate(resumed.metrics) == whole["metrics"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run gives that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    done = trainer(folder)("run")
    assert done.exit_code == 0
    return {
        "params_sha256": done.summary["params_sha256"],
        "metrics": without_rate(done.metrics),
    }
