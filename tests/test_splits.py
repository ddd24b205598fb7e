"""Several evaluation splits, and a test split that is evaluated once, when the run completes."""

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import yaml
from support.long import covering_rows
from support.runs import DIGITS, without_rate

import aetheria
from aetheria.data.checks import check_data
from aetheria.data.datasets import digits
from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, PhaseChanged
from aetheria.snapshots.store import list_snapshots

RNG = np.random.default_rng(0)


def rows(count):
    inputs = RNG.normal(size=(count, 64)).astype(np.float32)
    return aetheria.ArraySource({"inputs": inputs, "labels": np.arange(count) % 10})


VAL, OOD, TEST = digits().eval, rows(70), rows(50)


def splits(**changed):
    given = {"train": digits().train, "eval": {"val": VAL, "ood": OOD}, "test": TEST, **changed}
    return aetheria.DataSplits(**given)


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Trains an MLP on digits in tmp_path/run."""
    monkeypatch.chdir(tmp_path)
    keys = {key: value for key, value in DIGITS.items() if not key.startswith("data")}
    return partial(aetheria.train, **{"data": splits(), "workdir": "run", **keys})


class Stopper:
    """Asks for a stop, as a signal does, when an evaluation at a step begins or its nth pass."""

    def __init__(self, context, step, entry=1):
        self._stop, self._step, self._left = context.stop, step, entry

    def notify(self, event):
        evaluates = isinstance(event, PhaseChanged) and event.target == "evaluating"
        if evaluates and event.progress.step == self._step:
            self._left -= 1
            if not self._left:
                self._stop.request("signal SIGTERM", preempt=True)


class StopsWhileReading:
    """A source that asks for a stop when it is read after it is armed."""

    def __init__(self, source):
        self._source, self.stop = source, None

    def __len__(self):
        return len(self._source)

    def read(self, indices):
        if self.stop is not None:
            self.stop.request("signal SIGTERM", preempt=True)
        return self._source.read(indices)


def stopper(step, entry=1):
    return partial(Stopper, step=step, entry=entry)


def told(result):
    lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
    return without_rate([json.loads(line) for line in lines])


def passes(result):
    return [(line["step"], line["split"]) for line in told(result) if line["split"] != "train"]


# The state of early stopping is part of the snapshot; it must not count an evaluation twice.
PATIENCE = {"early_stopping": {"monitor": "eval/ood/loss", "patience": 2, "min_delta": 9.0}}


def test_every_evaluation_has_each_split_and_the_test_comes_once_at_the_end(fit, capsys):
    events = []
    result = fit(callbacks=[events.append], loggers=["jsonl", "console", "csv", "tensorboard"])
    names = ["eval/val", "eval/ood"]
    assert passes(result) == [*((step, n) for step in (23, 46) for n in names), (46, "test")]
    done = [event for event in events if isinstance(event, EvaluationCompleted)]
    assert [event.num_examples for event in done[2:]] == [len(VAL), 70, 50]
    final = result.summary["final"]
    assert final["eval/loss"] == final["eval/val/loss"] == done[2].metrics["loss"]
    assert final["eval/ood/loss"] == done[3].metrics["loss"] != final["eval/loss"]
    assert final["test/loss"] == done[4].metrics["loss"] == result.metrics["test/loss"]
    assert result.summary["num_eval_examples"] == len(VAL)
    assert set(result.summary["best"]["metrics"]) >= {"eval/loss", "eval/ood/accuracy"}
    assert not [name for name in result.summary["best"]["metrics"] if name.startswith("test/")]
    printed = capsys.readouterr().out
    assert all(f"step 46  {name} loss" in printed for name in (*names, "test"))
    assert {each["split"] for each in result.history} == {"train", *names, "test"}
    # Nothing of training depends on what is evaluated: the same bits with one split.
    alone = fit(data=splits(eval=VAL, test=None), workdir="alone")
    assert alone.summary["params_sha256"] == result.summary["params_sha256"]
    assert alone.summary["final"] == {
        name: value for name, value in final.items() if name.count("/") == 1 and "test" not in name
    }
    assert passes(alone) == [(23, "eval"), (46, "eval")]


@pytest.mark.parametrize(
    ("step", "entry"), covering_rows([(23, 1), (46, 1), (46, 2)], default=[(46, 2)])
)
def test_a_stop_in_any_pass_ends_as_if_it_had_not_come(fit, step, entry):
    whole = fit(workdir="whole", callbacks=[PATIENCE])
    stopped = fit(callbacks=[PATIENCE, stopper(step, entry)])
    assert (stopped.status, stopped.exit_code) == ("preempted", 75)
    assert "test/loss" not in stopped.metrics
    newest = list_snapshots(stopped.run_dir / "checkpoints")[-1]
    assert (newest.path.name, newest.metrics) == (f"snapshot_step{step}_unevaluated", {})
    resumed = fit(resume="latest", callbacks=[PATIENCE])
    assert told(resumed) == told(whole)
    for key in ("params_sha256", "final", "best", "num_eval_examples", "status"):
        assert resumed.summary[key] == whole.summary[key]
    assert resumed.summary["snapshot_failures"] == []


def test_a_stop_while_the_second_split_is_read_emits_nothing_of_the_first(fit):
    ood = StopsWhileReading(OOD)

    class Arm:
        def __init__(self, context):
            self._stop = context.stop

        def notify(self, event):
            if isinstance(event, PhaseChanged) and event.target == "evaluating":
                ood.stop = self._stop

    given = splits(eval={"val": VAL, "ood": ood})
    stopped = fit(data=given, callbacks=[Arm])
    assert (stopped.status, passes(stopped)) == ("preempted", [])
    ood.stop = None
    resumed = fit(data=given, resume="latest")
    assert told(resumed) == told(fit(data=given, workdir="whole"))


def test_a_completed_run_is_not_tested_again_and_a_longer_one_is(fit):
    first = fit()
    again = fit(resume="latest")
    assert passes(again) == passes(first)
    assert again.summary["final"] == first.summary["final"]
    longer = again.resume(epochs=3)
    assert passes(longer)[-1] == (69, "test")
    assert longer.metrics["test/loss"] != first.metrics["test/loss"]
    part = fit(workdir="run", resume="latest", epochs=5, stop_at_step=80, accept_changes=True)
    assert part.status == "preempted" and "test/loss" not in part.metrics


def test_early_stopping_and_the_best_snapshot_judge_the_split_they_are_given(fit):
    # Noise gets worse with training, real digits better.
    ood = fit(
        epochs=4,
        callbacks=[{"early_stopping": {"monitor": "eval/ood/loss", "patience": 2}}],
        **{"snapshot.monitor": "eval/ood/loss"},
    )
    assert (ood.status, ood.summary["steps"]) == ("completed", 69)
    assert ood.summary["best"]["step"] == 23
    assert passes(ood)[-1] == (69, "test")
    first = fit(epochs=4, callbacks=["early_stopping"], workdir="first")
    assert (first.summary["steps"], first.summary["best"]["step"]) == (92, 92)


@pytest.mark.parametrize("monitor", ["eval/dev/loss", "test/loss", "ood/loss"])
def test_a_wrong_monitor_is_one_line_with_what_exists(fit, monitor):
    for keys in (
        {"snapshot.monitor": monitor},
        {"callbacks": [{"early_stopping": {"monitor": monitor}}]},
    ):
        with pytest.raises(AetheriaError, match=r"eval/val/accuracy, eval/ood/loss.*got") as caught:
            fit(**keys)
        assert "\n" not in str(caught.value) and repr(monitor) in str(caught.value)


def test_an_older_run_with_one_split_resumes_with_more(fit):
    one = fit(data=splits(eval=VAL, test=None), stop_at_step=30)
    assert one.status == "preempted"
    more = fit(resume="latest")
    assert passes(more)[-3:] == [(46, "eval/val"), (46, "eval/ood"), (46, "test")]
    whole = fit(workdir="whole")
    assert more.summary["params_sha256"] == whole.summary["params_sha256"]


@pytest.mark.parametrize("split", ["ood", "test"])
def test_the_fingerprint_covers_every_split(fit, split):
    fit(stop_at_step=30)
    other = {"eval": {"val": VAL, "ood": rows(70)}} if split == "ood" else {"test": rows(50)}
    with pytest.raises(AetheriaError, match=rf"data\.(eval/)?{split}.*accept-changes"):
        fit(data=splits(**other), resume="latest")
    assert fit(resume="latest").status == "completed"


def test_a_loss_that_is_not_finite_is_reported_with_its_split(fit, capsys):
    bad = dict(OOD.columns, inputs=OOD.columns["inputs"].copy())
    bad["inputs"][68] = np.nan
    fit(data=splits(eval={"val": VAL, "ood": bad}), loggers=["jsonl", "console"])
    printed = capsys.readouterr().out
    assert "the evaluation of eval/ood is not finite in 1 batch(es)" in printed
    assert "the evaluation of eval/val is" not in printed


X, Y = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 1))
COLUMNS = {"inputs": X, "labels": Y}
FORMS = {
    "names of splits": (
        {"train": COLUMNS, "eval": {"a": (X, Y), "b": COLUMNS}},
        ["eval/a", "eval/b"],
    ),
    "one name": ({"train": (X, Y), "eval": {"a": (X, Y)}}, ["eval"]),
    "columns": ({"train": (X, Y), "eval": COLUMNS}, ["eval"]),
    "nested columns": (
        {"train": {"inputs": {"p": X}}, "eval": {"inputs": {"p": X[:5]}}},
        ["eval"],
    ),
    "a test": ({"train": COLUMNS, "val": COLUMNS, "test": COLUMNS}, ["eval", "test"]),
    "a test alone is the evaluation": ({"train": COLUMNS, "test": COLUMNS}, ["eval"]),
    "a name that is the key": (
        {"train": COLUMNS, "eval": {"eval": COLUMNS, "test": COLUMNS}},
        ["eval/eval", "eval/test"],
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_forms_of_splits(case):
    given, names = FORMS[case]
    made = check_data(given, None, {}).splits
    assert [*made.evals, *made.tests] == names


WRONG = {
    "other columns": (
        {"a": COLUMNS, "b": {"inputs": X}},
        "eval split 'b': expected the columns of",
    ),
    "another shape": (
        {"a": COLUMNS, "b": (X[:, :2], Y)},
        r"eval split 'b', column 'inputs': expected float32 rows of shape \[3\]",
    ),
    "a bad name": ({"a/b": COLUMNS, "c": COLUMNS}, "eval split: expected a name of letters.*'a/b'"),
    "a number for a name": (
        {1: COLUMNS, 2: COLUMNS},
        "eval split: expected a name of letters.*got 1",
    ),
    "no examples": ({"a": COLUMNS, "b": []}, "eval split 'b'.*got none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_evaluation_split_is_one_line(case):
    held_out, message = WRONG[case]
    with pytest.raises(AetheriaError, match=message) as caught:
        check_data({"train": COLUMNS, "eval": held_out}, None, {})
    assert "\n" not in str(caught.value)
    with pytest.raises(AetheriaError, match="test split"):
        check_data({"train": COLUMNS, "eval": COLUMNS, "test": {"inputs": X}}, None, {})


def write_csv(path, count, shift=0.0):
    x = RNG.normal(size=count) + shift
    lines = ["x,y", *(f"{a:.3f},{'b' if a > 0 else 'c'}" for a in x)]
    path.write_text("\n".join(lines) + "\n")
    return path.name


def test_tables_have_several_evaluation_files_and_a_test_file(tmp_path, monkeypatch, run_aetheria):
    monkeypatch.chdir(tmp_path)
    a, b, c, d = (write_csv(tmp_path / f"{name}.csv", 40) for name in "abcd")
    data_params = {"file": a, "label": "y", "eval_file": {"near": b, "far": c}, "test_file": d}
    config = {
        "model_name": "SimpleMLP",
        "model_params": {"input_dim": 1, "num_classes": 2},
        "data_name": "csv",
        "data_params": data_params,
        "epochs": 1,
        "loggers": ["jsonl"],
        "snapshot": {"monitor": "eval/far/accuracy", "mode": "max"},
    }
    run = run_aetheria(config)
    assert set(run["final"]) >= {"eval/near/loss", "eval/far/accuracy", "test/accuracy"}
    assert run["best"]["monitor"] == "eval/far/accuracy"
    (tmp_path / "c.csv").write_text("x,y\n1,unheard\n")
    with pytest.raises(AetheriaError, match=r"eval_file\.far, column 'y'.*unheard"):
        run_aetheria(config)


@pytest.fixture
def run_aetheria():
    def run(config):
        return aetheria.train(yaml.safe_load(yaml.safe_dump(config))).summary

    return run


def test_arrays_in_files_have_them_too(tmp_path, monkeypatch):
    from aetheria.data.arrays import npy, npz

    monkeypatch.chdir(tmp_path)
    for name in "abc":
        np.savez(f"{name}.npz", **COLUMNS)
        for column, values in COLUMNS.items():
            np.save(f"{name}_{column}.npy", values)
    made = npz(file="a.npz", eval_file={"p": "b.npz", "q": "c.npz"}, test_file="c.npz")
    assert [*made.evals, *made.tests] == ["eval/p", "eval/q", "test"]
    files = {name: {c: f"{name}_{c}.npy" for c in COLUMNS} for name in "abc"}
    made = npy(files=files["a"], eval_files={n: files[n] for n in "bc"}, test_files=files["b"])
    assert [*made.evals, *made.tests] == ["eval/b", "eval/c", "test"]
    assert [*npy(files=files["a"], eval_files=files["b"]).evals] == ["eval"]
    assert npz(file="a.npz").test is None
    wrongs: list[Any] = [{"b": "x"}, {"p": {"inputs": "nowhere.npy"}}, {"p": {}}]
    for wrong in wrongs:
        with pytest.raises((AetheriaError, FileNotFoundError)):
            npy(files=files["a"], eval_files=wrong)
