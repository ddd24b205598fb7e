"""`aetheria eval` and `aetheria.predict.evaluate`: a run's numbers, and those of other data."""

import csv
import json
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from flax import linen as nn
from sklearn.metrics import f1_score
from support.long import covering

import aetheria
from aetheria import predict
from aetheria.cli.main import main
from aetheria.data.datasets import digits
from aetheria.errors import AetheriaError
from aetheria.snapshots.store import read_record

SCORED = {"input_dim": 64, "hidden_dim": 16, "num_classes": 10, "metrics": ["f1", "confusion"]}


def read_json(capfd, *arguments) -> dict:
    """What `aetheria eval … --json` prints."""
    capfd.readouterr()
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def line(call, *arguments, **options) -> str:
    with pytest.raises(AetheriaError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def of_split(metrics, split):
    return {name: value for name, value in metrics.items() if name.startswith(f"{split}/")}


@pytest.fixture(scope="module")
def npz_files(tmp_path_factory):
    """Digits in files, by the names of their splits; every file has other examples."""
    folder = tmp_path_factory.mktemp("npz")
    columns = digits().train.read(np.arange(1200))
    for number, split in enumerate(("train", "val", "ood", "test")):
        rows = slice(number * 300, (number + 1) * 300 - number)
        np.savez(folder / f"{split}.npz", **{name: a[rows] for name, a in columns.items()})
    return {split: str(folder / f"{split}.npz") for split in ("train", "val", "ood", "test")}


@pytest.fixture(scope="module")
def averaged(train_once, npz_files):
    """A run with averaged parameters, finished metrics, two evaluation splits and a test split."""
    data = {
        "file": npz_files["train"],
        "eval_file": {name: npz_files[name] for name in ("val", "ood")},
        "test_file": npz_files["test"],
    }
    return train_once(
        "averaged", data_name="npz", data_params=data, model_params=SCORED, ema_decay=0.9
    )


@pytest.mark.parametrize("reproducibility", covering(["fast", "elastic"], default=["elastic"]))
def test_the_numbers_are_those_that_the_run_recorded(reproducibility, train_once, capfd):
    options = {"lanes": 4} if reproducibility == "elastic" else {}
    run = train_once(
        reproducibility, model_params=SCORED, reproducibility=reproducibility, **options
    )
    found = read_json(capfd, run.run_dir)
    recorded = of_split(run.summary["final"], "eval")
    assert len(recorded) == 2 + 1 + 100
    assert found["metrics"] == recorded
    assert found["num_examples"] == {"eval": run.summary["num_eval_examples"]}
    first = run.run_dir / "checkpoints" / "snapshot_ep1"
    at_half = read_json(capfd, first)
    assert at_half["metrics"] == of_split(read_record(first).evaluated, "eval")
    assert at_half["metrics"] != recorded


def test_each_split_is_evaluated_with_the_averaged_parameters(averaged, capfd):
    final = averaged.summary["final"]
    found = read_json(capfd, averaged.run_dir)
    assert found["averaged"]
    assert {name.rpartition("/")[0] for name in found["metrics"]} == {"eval/val", "eval/ood"}
    assert found["metrics"] == {name: final[name] for name in found["metrics"]}
    assert read_json(capfd, averaged.run_dir, "--split=ood")["metrics"] == of_split(
        found["metrics"], "eval/ood"
    )
    tested = read_json(capfd, averaged.run_dir, "--split=test")["metrics"]
    assert tested == of_split(final, "test")
    assert tested["test/loss"] != found["metrics"]["eval/val/loss"]
    trained = read_json(capfd, averaged.run_dir, "--split=train")
    assert trained["num_examples"] == {"train": 300}
    assert trained["metrics"]["train/loss"] != tested["test/loss"]


def test_python_and_other_data_give_the_same(averaged, npz_files):
    ood = of_split(averaged.summary["final"], "eval/ood")
    expected = {name.replace("eval/ood", "eval"): value for name, value in ood.items()}
    arrays = dict(np.load(npz_files["ood"]))
    run = averaged.run_dir
    pair = (arrays["inputs"].astype(np.float64), arrays["labels"].astype(np.int64))
    for data in (npz_files["ood"], arrays, pair):
        assert predict.evaluate(run, data) == expected
    assert predict.evaluate(predict.load(run), arrays) == expected
    assert predict.evaluate(run, split="ood") == ood
    both = {"train": pair, "eval": arrays}
    assert predict.evaluate(run, both) == expected
    changed = {**arrays, "labels": (arrays["labels"] + 1) % 10}
    assert predict.evaluate(run, changed) != expected


def test_a_metric_that_was_not_trained_with_is_computed(train_once, npz_files):
    run = train_once("plain").run_dir
    arrays = dict(np.load(npz_files["test"]))
    with_f1 = predict.evaluate(run, arrays, metrics=["f1"])
    predicted = predict.predict(run, arrays["inputs"]).argmax(-1)
    expected = f1_score(arrays["labels"], predicted, average="macro")
    assert with_f1["eval/f1"] == pytest.approx(expected, abs=1e-6)
    assert "eval/f1" not in predict.evaluate(run, arrays)
    assert "metrics: expected one of" in line(predict.evaluate, run, arrays, metrics=["f2"])


def test_the_table_shows_metrics_and_the_confusion_of_classes(averaged, command, tmp_path):
    done = command("eval", averaged.run_dir, "--split=val", "--output=scores.json")
    assert done.returncode == 0, done.stderr
    loss = averaged.summary["final"]["eval/val/loss"]
    assert f"{loss:.6g}" in done.stdout and "confusion matrix of eval/val" in done.stdout
    assert "verified, averaged parameters" in done.stdout and "confusion_0_0" not in done.stdout
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["metrics"]["eval/val/loss"] == loss
    again = command("eval", averaged.run_dir, "--output=scores.json")
    assert again.returncode == 2 and "add --overwrite" in again.stderr
    assert json.loads((tmp_path / "scores.json").read_text()) == written


@pytest.fixture(scope="module")
def loans(tmp_path_factory):
    """Two tables whose columns differ in their means."""
    folder, rng = tmp_path_factory.mktemp("loans"), np.random.default_rng(0)
    for name, mean in (("train", 50), ("new", 60)):
        income = rng.normal(mean, 15, 200).round(1)
        purpose = rng.choice(["car", "house"], 200)
        late = np.where(income + 20 * (purpose == "house") < 55, "yes", "no")
        weight = np.where(late == "yes", 4, 1)
        table = {"income": income, "purpose": purpose, "importance": weight, "late": late}
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
        pd.DataFrame(table).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def table_run(train_once, loans):
    return train_once(
        "table",
        model_params={"hidden_dim": 8, "num_classes": 2, "metrics": ["confusion"]},
        data_name="csv",
        data_params={
            "file": str(loans / "train.csv"),
            "label": "late",
            "weight": "importance",
            "eval_file": str(loans / "new.csv"),
        },
    )


def test_a_table_is_encoded_as_in_training(table_run, loans, capfd):
    expected = of_split(table_run.summary["final"], "eval")
    run = table_run.run_dir
    for name in ("new.csv", "new.parquet"):
        assert read_json(capfd, run, f"--data={loans / name}")["metrics"] == expected
    frame = pd.read_csv(loans / "new.csv")
    assert predict.evaluate(run, frame) == expected
    assert predict.evaluate(run, frame.to_dict("records")) == expected
    assert predict.evaluate(run, frame.assign(importance=1)) != expected
    assert main(["eval", str(run)]) == 0
    assert "true \\ predicted" in (shown := capfd.readouterr().out) and " yes " in shown
    other = aetheria.read_table(loans / "new.csv", label="late", weight="importance")
    assert "learned from other rows" in line(predict.evaluate, run, other)


def test_a_table_that_does_not_fit_is_one_line(table_run, loans, tmp_path):
    frame = pd.read_csv(loans / "new.csv")
    run, file = table_run.run_dir, tmp_path / "bad.csv"
    problems = {
        "expected a column 'late' with the labels": frame.drop(columns="late"),
        "expected a column 'importance' with the weights": frame.drop(columns="importance"),
        "expected a column 'income', as in training": frame.drop(columns="income"),
        "expected one of the classes no, yes, got 'perhaps' in row 3": frame.assign(
            late=["no", "yes", "no", "perhaps", *["no"] * 196]
        ),
        "column 'income': expected a number, as in training, got 'much' in row 0": frame.assign(
            income="much"
        ),
    }
    for expected, table in problems.items():
        table.to_csv(file, index=False)
        found = line(predict.evaluate, run, file)
        assert found.startswith(str(file)) and expected in found
    with file.open("w") as empty:
        csv.writer(empty).writerow(frame.columns)
    assert "expected rows under a line of column names" in line(predict.evaluate, run, file)
    assert "was not trained on a folder" in line(predict.evaluate, run, tmp_path)
    assert "expected a file that can be read" in line(predict.evaluate, run, tmp_path / "no.csv")


def test_arrays_that_do_not_fit_are_one_line(averaged, npz_files, loans, tmp_path):
    arrays = dict(np.load(npz_files["ood"]))
    run = averaged.run_dir
    assert "add 'labels'" in line(predict.evaluate, run, {"inputs": arrays["inputs"]})
    narrow = {**arrays, "inputs": arrays["inputs"][:, :63]}
    found = line(predict.evaluate, run, narrow)
    assert "expected a column 'inputs' of float32 rows of shape [64]" in found
    assert "not trained on a table" in line(predict.evaluate, run, loans / "new.csv")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, inputs=np.array([{}, {}], object), labels=np.arange(2))
    assert "Object arrays cannot be loaded" in line(predict.evaluate, run, pickled)
    assert "expected one of train, ood, val, test" in line(predict.evaluate, run, split="tset")
    assert "beside data" in line(predict.evaluate, run, arrays, split="test")


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(x)


@dataclass(frozen=True)
class Own(aetheria.Classifier):
    num_classes: int = 2

    def network(self):
        return Layer()


def test_a_run_of_objects_is_evaluated_with_them(tmp_path, capfd):
    inputs = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int32)
    data = {"train": (inputs[:60], labels[:60]), "eval": (inputs[60:], labels[60:])}
    result = aetheria.train(
        model=Own(), data=data, epochs=1, batch_size=16, strategy="cpu", workdir=tmp_path / "run"
    )
    predictor = result.predictor()
    expected = of_split(result.metrics, "eval")
    assert predict.evaluate(predictor, data) == expected
    assert predict.evaluate(predictor, (inputs[60:], labels[60:])) == expected
    assert "a program gave its data" in line(predict.evaluate, predictor)
    capfd.readouterr()
    np.savez(tmp_path / "data.npz", inputs=inputs[60:], labels=labels[60:])
    run, file = str(tmp_path / "run"), f"--data={tmp_path / 'data.npz'}"
    assert main(["eval", run, file]) == 0  # of a class that this process has loaded


def test_a_snapshot_chooses_no_dataset_by_an_import_path(train_once, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owndata.py").write_text(
        "import numpy as np\nfrom aetheria import DataSplits, ArraySource\n"
        "def make():\n"
        "    open('called', 'a').close()\n"
        "    source = ArraySource({'inputs': np.eye(64), 'labels': np.arange(64) % 10})\n"
        "    return DataSplits(source, source)\n"
    )
    run = train_once("by_path", data_name="owndata:make", project=tmp_path)
    del sys.modules["owndata"]
    (tmp_path / "called").unlink()
    assert main(["eval", str(run.run_dir)]) == 2
    assert "which a file may not choose" in capfd.readouterr().err
    assert not (tmp_path / "called").exists()
    found = read_json(capfd, run.run_dir, "--data-name=owndata:make")
    assert found["metrics"] == of_split(run.summary["final"], "eval")


def test_pictures_in_folders_are_evaluated(train_once, tmp_path_factory):
    pytest.importorskip("PIL")
    from support.shapes import draw_folder

    folder = draw_folder(tmp_path_factory.mktemp("pictures") / "shapes", 12)
    held_out = draw_folder(tmp_path_factory.mktemp("held_out") / "shapes", 7, seed=1)
    run = train_once(
        "pictures",
        model_name="SimpleCNN",
        model_params={"num_classes": 3, "conv_dims": [4], "hidden_dim": 8},
        data_name="image_folder",
        data_params={"path": str(folder), "image_size": 8, "eval_path": str(held_out)},
        epochs=1,
        batch_size=16,
    )
    expected = of_split(run.summary["final"], "eval")
    assert predict.evaluate(run.run_dir, held_out) == expected
    assert predict.evaluate(run.run_dir, folder) != expected
    (held_out / "triangle2").mkdir()
    next(held_out.glob("*/*.png")).rename(held_out / "triangle2" / "a.png")
    assert "expected the classes of the training split" in line(
        predict.evaluate, run.run_dir, held_out
    )
