"""Training from Python: `aetheria.train`, with objects in place of names."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import yaml
from flax import linen as nn
from support.long import long_or
from support.runs import DIGITS, without_rate

import aetheria
from aetheria.errors import AetheriaError
from aetheria.events import RunStarted, TrainMetrics
from aetheria.observe.callbacks.early_stopping import EarlyStopping


class Net(nn.Module):
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(nn.Dense(self.width)(x)))
        return nn.Dense(self.num_classes)(x)


@dataclass(frozen=True, kw_only=True)
class Quadrants(aetheria.Classifier):
    """In which of four quadrants the first two of five numbers lie."""

    num_classes: int = 4
    width: int = 16

    def network(self):
        return Net(self.width, self.num_classes)


RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(500, 5)).astype(np.float32)
LABELS = (INPUTS[:, 0] > 0).astype(np.int32) * 2 + (INPUTS[:, 1] > 0)
QUIET: dict[str, Any] = {"loggers": [], "batch_size": 50, "strategy": "cpu"}


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Trains a Quadrants in tmp_path; keyword arguments override."""
    monkeypatch.chdir(tmp_path)
    return partial(
        aetheria.train, model=Quadrants(), data=(INPUTS, LABELS), **{"epochs": 3, **QUIET}
    )


def test_a_model_and_arrays_are_all_it_takes(fit, tmp_path):
    result = fit(loggers=["jsonl"], learning_rate=0.03)
    assert (result.status, result.exit_code) == ("completed", 0)
    assert result.run_dir == Path("runs/Quadrants/1")
    assert result.metrics["eval/accuracy"] > 0.6
    lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
    assert result.history == [json.loads(line) for line in lines]
    assert result.snapshot == result.run_dir / "checkpoints" / "snapshot_ep3"
    assert result.summary == json.loads((result.run_dir / "summary.json").read_text())
    config = json.loads((result.run_dir / "config.json").read_text())
    assert config["model_name"] == "test_api:Quadrants"
    assert config["model_params"]["learning_rate"] == 0.03
    predicted = result.predictor().predict(INPUTS).argmax(-1)
    assert (predicted == LABELS).mean() > 0.6
    best = result.predictor("best")
    assert best.snapshot.name == result.summary["best"]["snapshot"]


def test_it_does_what_the_command_does(train, tmp_path, monkeypatch):
    by_command = train("run", epochs=2)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(DIGITS))
    from_file = aetheria.train(file, epochs=2)
    from_values = aetheria.train({**DIGITS, "epochs": 2}, workdir="mine")
    assert from_file.run_dir == Path("runs/config/1")
    assert from_values.run_dir == Path("mine")
    digests = {r.summary["params_sha256"] for r in (by_command, from_file, from_values)}
    assert len(digests) == 1
    other = aetheria.train({**DIGITS, "epochs": 2}, seed=1)
    assert other.summary["params_sha256"] not in digests


def test_a_run_that_is_continued_is_one_that_was_never_stopped(fit):
    whole = fit()
    part = fit(stop_at_step=11)
    assert (part.status, part.exit_code) == ("preempted", 75)
    rest = part.resume()
    assert rest.run_dir == part.run_dir
    assert rest.summary["params_sha256"] == whole.summary["params_sha256"]
    assert without_rate(rest.history) == without_rate(whole.history)
    longer = rest.resume(epochs=4)
    assert longer.summary["epoch"] == 4
    assert [each["step"] for each in longer.history][: len(rest.history)] == [
        each["step"] for each in rest.history
    ]
    forked = longer.resume(8, learning_rate=0.5)
    assert forked.run_dir != longer.run_dir
    assert forked.summary["lineage"]["step"] == 8


class Pairs:
    """A map-style dataset, as PyTorch has them."""

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        return INPUTS[index], int(LABELS[index])


COLUMNS = {"inputs": INPUTS, "labels": LABELS}
HALVES = [
    {name: column[half] for name, column in COLUMNS.items()}
    for half in (slice(400), slice(400, None))
]
FORMS = {
    "a pair of arrays": (INPUTS, LABELS),
    "columns": COLUMNS,
    "a table": pandas.DataFrame({"inputs": [*INPUTS], "labels": LABELS}),
    "records": [{"inputs": x, "labels": y} for x, y in zip(INPUTS, LABELS, strict=True)],
    "pairs": Pairs(),
    "a source": aetheria.ArraySource(COLUMNS),
}
SPLIT_FORMS = {
    "splits": aetheria.DataSplits(*map(aetheria.ArraySource, HALVES)),
    "a pair of datasets": tuple(HALVES),
    "train and validation": {"train": HALVES[0], "validation": HALVES[1]},
    "three splits": {"train": HALVES[0], "test": HALVES[1], "validation": HALVES[1]},
    "train and test": {"train": HALVES[0], "test": HALVES[1]},
}


def digest(result):
    return result.summary["params_sha256"]


def test_one_dataset_in_any_form_is_the_same_run(fit):
    results = {name: fit(data=data, epochs=1) for name, data in FORMS.items()}
    assert {result.summary["num_eval_examples"] for result in results.values()} == {100}
    assert len({digest(result) for result in results.values()}) == 1, results


def test_two_splits_in_any_form_are_the_same_run(fit):
    results = {name: fit(data=data, epochs=1) for name, data in SPLIT_FORMS.items()}
    assert {result.summary["num_eval_examples"] for result in results.values()} == {100}
    assert len({digest(result) for result in results.values()}) == 1, results


class Counting:
    """A callback that is made with the run's context."""

    def __init__(self, context, limit=2):
        self.context, self.limit, self.seen = context, limit, 0

    def notify(self, event):
        self.seen += isinstance(event, TrainMetrics)
        if self.seen == self.limit:
            self.context.stop.request("enough")


def test_listeners_are_names_objects_classes_and_functions(fit, tmp_path):
    events = []
    result = fit(
        log_every_steps=2,
        loggers=["jsonl", {"csv": {}}],
        callbacks=[events.append, partial(Counting, limit=3), {"early_stopping": {"patience": 5}}],
    )
    assert isinstance(events[0], RunStarted)
    assert (result.status, result.reason) == ("completed", "enough")
    assert (result.run_dir / "metrics.csv").exists() and (result.run_dir / "metrics.jsonl").exists()
    config = json.loads((result.run_dir / "config.json").read_text())
    assert config["callbacks"] == [{"early_stopping": {"patience": 5}}]
    assert fit(callbacks=[partial(EarlyStopping, patience=1)]).status == "completed"


def test_listeners_of_one_name_are_all_called(fit):
    """A logger and a callback, two callbacks, and one with the name of what keeps the history."""
    seen = []

    def history(event):
        seen.append("history")

    listen = [lambda event, number=number: seen.append(number) for number in range(3)]
    result = fit(epochs=1, loggers=listen[:1], callbacks=[*listen[1:], history])
    assert set(seen) == {0, 1, 2, "history"}
    assert result.history
    code = json.loads((result.run_dir / "provenance.json").read_text())["code"]
    names = {"<lambda>", "<lambda>#2", "<lambda>#3", "history", "history#2"}
    assert names <= {name.removeprefix("callbacks.") for name in code}


def test_one_that_raises_is_detached_and_changes_nothing(fit, capsys):
    def broken(event):
        if isinstance(event, TrainMetrics):
            raise ValueError("of mine")

    result = fit(callbacks=[broken])
    assert digest(result) == digest(fit())
    assert "broken" in result.summary["detached_listeners"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": Quadrants},
            r"model: expected .*, got the class Quadrants; call it: Quadrants\(\)",
        ),
        ({"model": Net(1, 2)}, "model: expected an aetheria Model, got a Net; subclass"),
        ({"model": "SimpelMLP"}, "use 'SimpleMLP'"),
        ({"epoch": 3}, r"aetheria.train: epoch: .*did you mean 'epochs'\?"),
        ({"epochs": "many"}, "aetheria.train: epochs: expected a whole number, got 'many'"),
        ({"model_params": {"width": 3}}, "expected no such key beside a model object"),
        ({"data_name": "digits"}, "expected no such key beside data, got 'digits'"),
        ({"remat": True}, "remat: expected a model with a field remat, got a Quadrants"),
        ({"data": 3}, "data: expected a table, a dict of arrays, .*, got int; give DataSplits"),
        ({"data": (INPUTS, LABELS[:5])}, "data, .*expected columns of one length"),
        ({"data": (INPUTS, LABELS + 7)}, "labels.*expected"),
        ({"data": {"train": COLUMNS, "other": COLUMNS}}, "the splits 'train' and 'eval', got"),
        ({"callbacks": "early_stopping"}, r"callbacks: expected a list, got .*; write \["),
        ({"callbacks": [3]}, "or a function of one event, got a int"),
        ({"loggers": [Net]}, r"expected a class with a method notify\(event\), got Net"),
        ({"resume": "latest"}, "--resume: expected a snapshot in"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(fit, tmp_path, options, message):
    with pytest.raises(AetheriaError, match=message) as caught:
        fit(**options)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_config_that_is_none_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AetheriaError, match=r"config: expected a file, .* got 3"):
        aetheria.train(3)  # type: ignore[arg-type]
    with pytest.raises(AetheriaError, match=r"nowhere.yaml: expected a config file, got none"):
        aetheria.train("nowhere.yaml")


SCRIPT = """
import os, signal, sys, threading
import numpy as np
import aetheria
from dataclasses import dataclass
from flax import linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(x)

@dataclass(frozen=True)
class Mine(aetheria.Classifier):
    num_classes: int = 2
    def network(self):
        return Net()

x = np.random.default_rng(0).normal(size=(512, 8)).astype("f4")
y = (x.sum(1) > 0).astype("i4")
options = dict(model=Mine(), data=(x, y), loggers=[], strategy="cpu", log_every_steps=1)

def interrupt(event):
    if type(event).__name__ == "TrainMetrics" and event.progress.step == 20:
        os.kill(os.getpid(), signal.SIGINT)

before = signal.getsignal(signal.SIGINT)
stopped = aetheria.train(**options, epochs=10, callbacks=[interrupt], workdir="stopped")
assert signal.getsignal(signal.SIGINT) is before, "the handlers of the process are back"
assert (stopped.status, stopped.reason) == ("preempted", "signal SIGINT"), stopped
rest = stopped.resume(callbacks=[])
whole = aetheria.train(**options, epochs=10, workdir="whole")
assert rest.summary["params_sha256"] == whole.summary["params_sha256"]
assert rest.predictor().predict(x).shape == (512, 2)

def twice(event):
    interrupt(event)
    if type(event).__name__ == "TrainMetrics" and event.progress.step >= 20:
        os.kill(os.getpid(), signal.SIGINT)

try:
    aetheria.train(**options, epochs=10, callbacks=[twice], workdir="twice")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_ends_the_run_and_not_the_script(tmp_path):
    """And a class of a script is remade where the script runs, and asked for elsewhere."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "interrupted"
    with pytest.raises(AetheriaError, match="model") as caught:
        aetheria.Predictor(checkpoint_path=tmp_path / "whole", project=tmp_path)
    assert "give it as model=" in str(caught.value)
    with pytest.raises(AetheriaError, match="give one"):
        aetheria.Predictor("X", checkpoint_path=tmp_path / "whole", model=Quadrants())


def test_a_run_in_another_thread_leaves_the_signals_alone(fit):
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(fit(epochs=1)))
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert results[0].status == "completed"
    assert signal.getsignal(signal.SIGINT) is before


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_many_runs_in_one_process_leave_nothing_behind(fit):
    """Threads, file descriptors and memory are level."""
    threads, descriptors, memory, num_runs = [], [], [], long_or(10, 20)
    for number in range(num_runs):
        fit(epochs=1, workdir=f"run{number}")
        threads.append(threading.active_count())
        descriptors.append(count_descriptors())
        memory.append(resident_mb())
    assert len(set(threads[5:])) == 1, threads
    assert max(descriptors[5:]) <= min(descriptors[5:]) + 1, descriptors
    print([round(each) for each in memory])
    # From the middle on, less than 6 MB a run.
    middle = num_runs // 2 - 1
    assert memory[-1] - memory[middle] < 6 * (num_runs - 1 - middle), memory


def test_curves_are_drawn(fit, tmp_path):
    result = fit(epochs=2, log_every_steps=1)
    figure = result.plot()
    assert [axes.get_title() for axes in figure.axes] == ["loss", "grad_norm", "accuracy"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["train", "eval"]
    assert len(figure.axes[0].lines[0].get_xdata()) == 16
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(AetheriaError, match=r"plot: expected one of loss, .* got 'acc'"):
        result.plot("acc")


def test_the_history_becomes_a_table(fit):
    table = fit(epochs=1).history.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert {"step", "split", "loss", "accuracy"} <= set(table.columns)
