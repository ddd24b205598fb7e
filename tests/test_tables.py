"""Tables and arrays in files: read, trained on, and predicted from as they lie in the file."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

import aetheria
from aetheria.data.encoding import CategoryColumn, NumberColumn, TableEncoding
from aetheria.errors import AetheriaError, SnapshotError

COLUMNS = ["age", "plan", "weight", "churn"]
MODEL = {"model_name": "SimpleMLP", "model_params": {"input_dim": 4, "num_classes": 2}}


@pytest.fixture(scope="module")
def rows():
    """500 rows; "yes" is rare, and weighs 4."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(500):
        age, plan = round(float(rng.normal(40, 12)), 1), ["basic", "plus", "pro"][number % 3]
        churn = "yes" if age + 30 * (plan == "basic") > 68 else "no"
        made.append([age, plan, 4.0 if churn == "yes" else 1.0, churn])
    made[7][0] = None
    for row in made[10:20]:
        row[1] = ""
    return made


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture(scope="module")
def file(rows, tmp_path_factory):
    return write(tmp_path_factory.mktemp("table") / "churn.csv", rows)


def read(file, **options):
    return aetheria.read_table(file, **{"label": "churn", "weight": "weight", **options})


def whole(source):
    return source.read(np.arange(len(source)))


def test_what_is_learned_comes_from_the_training_split_alone(file, rows):
    splits = read(file)
    train, held_out = whole(splits.train), whole(splits.eval)
    assert (len(splits.train), len(splits.eval)) == (400, 100)
    age, plan = splits.encoding.columns
    assert splits.encoding.classes == ("no", "yes")
    assert plan == CategoryColumn("plan", ("", "basic", "plus", "pro"))
    assert train["inputs"].shape == (400, 1 + 4) and train["inputs"].dtype == np.float32
    assert abs(train["inputs"][:, 0].mean()) < 0.01  # standardized, and the missing one is the mean
    assert abs(train["inputs"][:, 0].std() - 1) < 0.01
    assert abs(held_out["inputs"][:, 0].mean()) > 1e-4
    known = [row[0] for row in rows if row[0] is not None]
    assert age.mean != pytest.approx(np.mean(known), abs=1e-9), "not of all rows"
    assert set(train["inputs"][:, 1:].sum(1)) == {1.0}
    assert np.bincount(train["labels"]).tolist() == [
        int((train["weight"] == 1).sum()),
        int((train["weight"] == 4).sum()),
    ]


def test_a_number_is_a_label_as_it_is_and_on_request_a_class(tmp_path):
    file = write(tmp_path / "t.csv", [[n / 2, n % 12, 1, "x"] for n in range(48)])
    numbers = aetheria.read_table(file, label="plan")
    assert numbers.encoding.classes == ()
    assert whole(numbers.train)["labels"].dtype == np.float32
    classes = aetheria.read_table(file, label="plan", classes=True).encoding.classes
    assert classes == tuple(map(str, range(12))), "sorted as numbers"


def test_forms_of_one_table_are_the_same_to_a_model(file, rows, tmp_path):
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.to_parquet(tmp_path / "churn.parquet")
    columns = {
        name: list(column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    }
    expected = read(file)
    for other in (tmp_path / "churn.parquet", frame, columns):
        found = read(other)
        assert found.encoding == expected.encoding
        for split in ("train", "eval"):
            np.testing.assert_equal(whole(getattr(found, split)), whole(getattr(expected, split)))


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    """A run by config, stopped and resumed."""
    folder = tmp_path_factory.mktemp("trained")
    config = {
        **MODEL,
        "model_params": {"input_dim": 5, "num_classes": 2},
        "data_name": "csv",
        "data_params": {"file": str(file), "label": "churn", "weight": "weight"},
        "epochs": 30,
        "learning_rate": 0.02,
        "loggers": ["jsonl"],
    }
    stopped = aetheria.train(config, workdir=folder / "run", stop_at_step=50)
    assert stopped.status == "preempted"
    return stopped.resume()


def test_a_prediction_takes_rows_as_they_lie_in_the_file(trained, file, rows):
    assert trained.status == "completed" and trained.metrics["eval/accuracy"] > 0.95
    predictor = aetheria.Predictor(checkpoint_path=f"{trained.run_dir}@best")
    assert predictor.classes == ("no", "yes")
    splits = read(file, eval_file=file)  # all rows, but another mean
    inputs = trained_encoding(trained).encode(
        dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    )
    expected = predictor.predict(inputs)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    columns = {"plan": [row[1] for row in rows], "age": [row[0] for row in rows]}
    for given in (frame, records, columns):
        np.testing.assert_array_equal(predictor.predict(given), expected)
    labels = whole(splits.eval)["labels"]
    right = np.array(predictor.predict_classes(frame)) == np.array(["no", "yes"])[labels]
    assert right.mean() > 0.95
    one = predictor.predict_classes({"age": 70, "plan": "basic"})
    assert one == ["yes"] == predictor.predict_classes({"age": "70", "plan": "basic"})
    assert predictor.predict_classes([{"age": None, "plan": "of no row"}]) == ["no"]
    with pytest.raises(AetheriaError, match="inputs: expected a column 'age', as in training, got"):
        predictor.predict({"plan": ["pro"]})
    with pytest.raises(AetheriaError, match="'age': expected a number, as in training, got "):
        predictor.predict({"plan": ["pro"], "age": ["old"]})


def by_column(rows):
    return dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))


def trained_encoding(result):
    from aetheria.snapshots import read_snapshot

    said = read_snapshot(result.snapshot).record.run.encoding
    return TableEncoding.from_json(json.loads(json.dumps(said)), "snapshot")


def test_a_model_of_arrays_has_no_class_names(tmp_path):
    data = np.ones((32, 4), np.float32), np.arange(32, dtype=np.int32) % 2
    result = aetheria.train(MODEL, data=data, epochs=1, workdir=tmp_path / "run")
    predictor = result.predictor()
    assert predictor.classes == ()
    with pytest.raises(AetheriaError, match="that was trained on classes with names"):
        predictor.predict_classes(data[0])


def test_a_weight_of_zero_leaves_an_example_out(tmp_path):
    """The metrics of half of the examples with weight 0 are those of the other half."""
    rng = np.random.default_rng(1)
    inputs, labels = rng.normal(size=(64, 4)).astype("f"), rng.integers(0, 2, 64).astype("i")
    weight = (np.arange(64) < 32).astype("f")
    train = {"inputs": inputs, "labels": labels, "weight": weight}

    def evaluated(eval_split, name):
        data = {"train": train, "eval": eval_split}
        return aetheria.train(MODEL, data=data, epochs=1, workdir=tmp_path / name).metrics

    half = evaluated({name: column[:32] for name, column in train.items()}, "half")
    all_of_it = evaluated(train, "whole")
    unweighted = evaluated({**train, "weight": np.ones(64, "f")}, "unweighted")
    for name in ("eval/loss", "eval/accuracy"):
        assert all_of_it[name] == pytest.approx(half[name], rel=1e-6)
        assert unweighted[name] != pytest.approx(half[name], rel=1e-3)


def test_nothing_is_nothing_in_every_spelling():
    ages = [31.0, None, "", float("nan"), np.float32("nan"), pd.NA, pd.NaT, 33]
    columns = {"age": ages, "churn": ["no", "yes"] * 4}
    encoding = aetheria.read_table(columns, label="churn", eval_file=columns).encoding
    assert encoding.columns == (NumberColumn("age", 32.0, 1.0),)
    np.testing.assert_equal(encoding.encode(columns)[:, 0], [-1, 0, 0, 0, 0, 0, 0, 1])


def test_columns_of_different_lengths_are_no_rows():
    ragged = {"age": [1.0, 2.0, 3.0], "churn": ["no", "yes"]}
    with pytest.raises(AetheriaError, match="rows: expected columns of one length, got 2, 3; give"):
        aetheria.read_table(ragged, label="churn")


def test_a_few_batches_of_a_table_keep_its_encoding(file, tmp_path):
    model = {**MODEL, "model_params": {"input_dim": 5, "num_classes": 2}}
    options = {"epochs": 1, "overfit_batches": 1, "workdir": tmp_path / "run"}
    result = aetheria.train(model, data=read(file), **options)
    assert result.predictor().classes == ("no", "yes")


def test_with_pytorch_a_weight_counts_as_much(file, tmp_path):
    pytest.importorskip("torch")
    model = {**MODEL, "model_params": {"input_dim": 5, "num_classes": 2}}
    data = {"weighted": read(file), "plain": read(file, weight=None, features=["age", "plan"])}

    def train(strategy, which):
        workdir = tmp_path / f"{strategy}-{which}"
        options = {"strategy": strategy, "epochs": 2, "workdir": workdir}
        return aetheria.train(model, data=data[which], **options).metrics

    ours, theirs = train("auto", "weighted"), train("torch", "weighted")
    for name in ("train/loss", "eval/loss", "eval/accuracy"):
        assert theirs[name] == pytest.approx(ours[name], rel=1e-4), name
    plain = train("torch", "plain")  # the control
    assert plain["eval/loss"] != pytest.approx(ours["eval/loss"], rel=1e-2)


MISTAKES = {
    "no such label": (
        {"label": "chrun"},
        "expected a column 'chrun' in file, got age, plan",
    ),
    "no such feature": ({"features": ["plan", "pan"]}, "expected a column 'pan' in file"),
    "a weight of text": (
        {"weight": "plan"},
        "expected a weight of 0 or more, got 'basic' in row 0",
    ),
    "a missing number": (
        {"label": "age"},
        "expected a number to predict, got nothing in row 7",
    ),
    "a huge number": ({"file": {"n": [10**400, 2], "churn": [1, 10**400]}}, "got 1000000000"),
    "a large number": (
        {"file": {"n": [1, 2], "churn": [1, 1e300]}},
        "numbers that fit float32",
    ),
    "a fraction": (
        {"eval_fraction": 1.5},
        "expected a number between 0 and 1, got 1.5",
    ),
    "another ending": (
        {"file": "table.xlsx"},
        "a .csv or .parquet file, got 'table.xlsx'",
    ),
    "no table": ({"file": 3}, "expected a file, a data frame or a dict of columns, got 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(file, mistake):
    options, expected = MISTAKES[mistake]
    if isinstance(options.get("file"), dict):
        options = {**options, "weight": None, "classes": False}
    with pytest.raises(AetheriaError) as caught:
        read(**{"file": file, **options})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


FILES = {
    "nothing": (b"", "expected rows under a line of column names, got none"),
    "no rows": (b"age,churn\n", "expected rows under a line of column names, got none"),
    "a short row": (b"age,churn\n1,no\n2\n", "row 1: expected 2 cells, as there are column names"),
    "two of a name": (b"age,age\n1,no\n", "expected a first line of different column names"),
    "no text": (b"age,churn\n\xff\xfe,no\n", "expected CSV in UTF-8"),
    "too many texts": (
        b"name,churn\n" + b"".join(b"n%d,no\n" % n for n in range(900)),
        "'name': expected numbers, or at most 200 different texts, got",
    ),
    "a column of nothing": (b"age,churn\n,no\n,yes\n,no\n", "got only missing ones; leave it out"),
}


@pytest.mark.parametrize("content", FILES)
def test_a_file_that_is_no_table_is_one_line(tmp_path, content):
    data, expected = FILES[content]
    (tmp_path / "table.csv").write_bytes(data)
    with pytest.raises(AetheriaError) as caught:
        aetheria.read_table(tmp_path / "table.csv", label="churn")
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "table.parquet").write_bytes(data)
    with pytest.raises(AetheriaError, match="expected a Parquet file, got"):
        aetheria.read_table(tmp_path / "table.parquet", label="churn")


def test_an_unknown_class_of_the_evaluation_names_file_and_row(file, tmp_path):
    other = write(tmp_path / "other.csv", [[30, "pro", 1, "no"], [31, "pro", 1, "maybe"]])
    with pytest.raises(AetheriaError, match=r"^eval_file, column 'churn': .*'maybe' in row 1"):
        read(file, eval_file=other)


@pytest.mark.parametrize(
    "said",
    [
        None,
        {"columns": [], "label": 3, "classes": []},
        {"columns": [{"name": "a", "mean": 0.0, "std": 0.0}], "label": "b", "classes": []},
        {"columns": [{"name": "a", "mean": float("nan"), "std": 1.0}], "label": "b", "classes": []},
        {"columns": [{"name": "a", "mean": 10**400, "std": 1.0}], "label": "b", "classes": []},
        {"columns": [{"name": "a", "categories": [3]}], "label": "b", "classes": []},
        {"columns": [{"name": "a", "categories": []}], "label": "b", "classes": [None]},
    ],
)
def test_an_encoding_that_is_none_is_refused(said):
    with pytest.raises(SnapshotError, match="snapshot: expected an encoding of table columns, got"):
        TableEncoding.from_json(said, "snapshot")


def test_an_encoding_survives_json():
    columns = (NumberColumn("a", 1.5, 2.0), CategoryColumn("b", ("", "x")))
    encoding = TableEncoding(columns=columns, label="c", classes=("no", "yes"))
    assert TableEncoding.from_json(json.loads(json.dumps(encoding.to_json())), "") == encoding


def test_arrays_in_files_are_trained_on_as_arrays_in_memory(tmp_path):
    rng = np.random.default_rng(2)
    inputs, labels = rng.normal(size=(200, 4)).astype("f"), rng.integers(0, 2, 200).astype("i")
    np.savez(tmp_path / "all.npz", inputs=inputs, labels=labels)
    np.save(tmp_path / "x.npy", inputs)
    np.save(tmp_path / "y.npy", labels)
    files = {"inputs": str(tmp_path / "x.npy"), "labels": str(tmp_path / "y.npy")}
    ways = {
        "memory": {"data": (inputs, labels)},
        "npz": {"data_name": "npz", "data_params": {"file": str(tmp_path / "all.npz")}},
        "npy": {"data_name": "npy", "data_params": {"files": files}},
    }
    histories = [
        aetheria.train(MODEL, epochs=2, workdir=tmp_path / name, **way).metrics
        for name, way in ways.items()
    ]
    assert histories[0] == histories[1] == histories[2]


ARRAYS = {
    "a text file": ("npz", {"file": "text"}, "expected a .npz file of arrays of numbers, got"),
    "one array": (
        "npz",
        {"file": "x.npy"},
        "a .npz file of arrays of numbers, got a single",
    ),
    "missing": ("npz", {"file": "none.npz"}, "expected a file that can be read, got 'none.npz'"),
    "text as npy": ("npy", {"files": {"inputs": "text"}}, "expected a .npy file with an array of"),
    "lengths": ("npy", {"files": {"inputs": "x.npy", "labels": "y.npy"}}, "columns of one length"),
    "objects": ("npy", {"files": {"inputs": "o.npy"}}, "expected a .npy file with an array of"),
    "a cut file": ("npz", {"file": "cut.npz"}, "a .npz file of arrays of numbers, got"),
    "a claim": ("npy", {"files": {"inputs": "claim.npy"}}, "expected a .npy file with an array of"),
    "a number": ("npy", {"files": {"inputs": 3}}, "expected columns and their files, got {'inputs"),
    "no files": ("npy", {"files": {}}, "expected columns and their files, got {}"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_a_file_without_arrays_is_one_line(tmp_path, monkeypatch, capsys, case):
    from aetheria.cli.main import main

    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((4, 2), "f"))
    np.save("y.npy", np.ones(3, "f"))
    np.save("o.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text").write_text("no arrays")
    np.savez("all.npz", inputs=np.ones((400, 2)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "all.npz").read_bytes()[:-50])
    claimed = (
        (tmp_path / "x.npy").read_bytes().replace(b"(4, 2), }          ", b"(400000000000, 2), }")
    )
    (tmp_path / "claim.npy").write_bytes(claimed)
    name, params, expected = ARRAYS[case]
    config = {**MODEL, "data_name": name, "data_params": params}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["train", "config.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("labels", [["up", "down"] * 30, np.array(["up", "down"] * 30)])
def test_texts_as_labels_are_refused_with_what_to_do(labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AetheriaError, match=r"np\.unique.*aetheria\.read_table") as raised:
        aetheria.train(model="SimpleMLP", data=(np.ones((60, 3)), labels))
    assert "\n" not in str(raised.value) and not (tmp_path / "runs").exists()


def test_classes_that_the_model_does_not_declare_are_reported(file, tmp_path, capsys):
    keys = {"data": read(file), "loggers": [], "max_steps": 1, "strategy": "cpu"}
    said = "the label has the classes no, yes, and SimpleMLP declares no classes"
    aetheria.train(model="SimpleMLP", workdir=tmp_path / "numbers", **keys)
    assert said in capsys.readouterr().out
    # One metric may be a text, and the model takes the number of inputs from the data.
    params = {"num_classes": 2, "metrics": "f1"}
    model = {"model": "SimpleMLP", "model_params": params}
    result = aetheria.train(**model, workdir=tmp_path / "classes", **keys)
    assert said not in capsys.readouterr().out and "eval/f1" in result.metrics


def test_whole_numbers_that_a_shipped_model_learns_as_numbers_are_reported(tmp_path, capsys):
    labels = np.arange(60) % 3
    keys = {"model": "SimpleMLP", "loggers": [], "max_steps": 1, "strategy": "cpu"}
    said = "the label is a whole number from 0 to 2, and SimpleMLP declares no classes"
    aetheria.train(**keys, data=(np.ones((60, 3)), labels), workdir=tmp_path / "numbers")
    assert said in capsys.readouterr().out
    aetheria.train(**keys, data=(np.ones((60, 3)), labels / 2), workdir=tmp_path / "fractions")
    classes = {"model_params": {"num_classes": 3}, "data": (np.ones((60, 3)), labels)}
    aetheria.train(**keys, **classes, workdir=tmp_path / "classes")
    assert "declares no classes" not in capsys.readouterr().out
