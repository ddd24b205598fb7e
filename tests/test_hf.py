"""Datasets of Hugging Face by config: folders on disk, columns, class names, and what is wrong."""

import sys

import numpy as np
import pytest

import aetheria
from aetheria.data.checks import check_data
from aetheria.errors import AetheriaError

datasets = pytest.importorskip("datasets")
pytest.importorskip("PIL")
from aetheria.data.hf import hf  # noqa: E402

RNG = np.random.default_rng(0)
NAMES = ["cat", "dog", "owl"]


def make(count, shift=0):
    x = RNG.normal(size=(count, 4)).astype(np.float32) + shift
    features = datasets.Features(
        {
            "x": datasets.Sequence(datasets.Value("float32")),
            "age": datasets.Value("int64"),
            "size": datasets.Value("float64"),
            "kind": datasets.ClassLabel(names=NAMES),
            "text": datasets.Value("string"),
            "tokens": datasets.Sequence(datasets.Value("int32")),
        }
    )
    rows = {
        "x": x.tolist(),
        "age": [*range(count)],
        "size": RNG.normal(size=count).tolist(),
        "kind": [int(row[0] > 0) + int(row[1] > 0) for row in x],
        "text": ["so"] * count,
        "tokens": [[*range(1, 2 + i % 5)] for i in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved datasets: `all` with several splits, `one` without any."""
    root = tmp_path_factory.mktemp("hf")
    splits = {"train": make(60), "validation": make(20), "test": make(21), "far": make(22, 3)}
    datasets.DatasetDict(splits).save_to_disk(str(root / "all"))
    make(50).save_to_disk(str(root / "one"))
    return root


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


CONFIG = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 4, "hidden_dim": 8, "num_classes": 3},
    "data_name": "hf",
    "epochs": 1,
    "batch_size": 16,
    "strategy": "cpu",
    "loggers": ["jsonl"],
}


def test_a_saved_dataset_trains_and_its_class_names_are_in_the_snapshot(tmp_path):
    data_params = {"path": "all", "inputs": "x", "labels": "kind"}
    run = aetheria.train(CONFIG, data_params=data_params, workdir=tmp_path / "run")
    assert (run.status, run.summary["num_eval_examples"]) == ("completed", 20)
    assert [e["num_examples"] for e in run.history if e["split"] == "test"] == [21]
    predictor = run.predictor()
    assert predictor.classes == tuple(NAMES)
    x = np.asarray(datasets.load_from_disk("all")["test"].with_format("numpy")["x"][:])
    expected = [NAMES[number] for number in predictor.predict(x).argmax(-1)]
    assert predictor.predict_classes(x) == expected
    # Every column of the file is still there, and so is the digest of the data.
    again = aetheria.train(
        CONFIG,
        data_params=data_params,
        workdir=tmp_path / "run",
        resume="latest",
        epochs=2,
        accept_changes=True,
    )
    assert again.status == "completed"


def test_columns_are_read_lazily_and_named_as_the_config_says():
    splits = hf(path="all", inputs=["age", "size"], labels="x", columns={"more": "kind"})
    rows = splits.train.read(np.array([3, 0, 3]))
    assert {name: column.shape for name, column in rows.items()} == {
        "inputs": (3, 2),
        "labels": (3, 4),
        "more": (3,),
    }
    assert rows["inputs"][:, 0].tolist() == [3, 0, 3]
    table = datasets.load_from_disk("all")["train"]
    np.testing.assert_allclose(rows["inputs"][1, 1], table[0]["size"])
    assert not getattr(splits.train, "in_memory", False)
    assert hf(path="all", labels="x", columns={"inputs": "size"}).encoding is None


def test_splits_are_chosen_by_name():
    numbers = {"inputs": "x", "labels": "kind"}
    named = hf(path="all", eval={"near": "validation", "far": "far"}, **numbers)
    assert {n: len(s) for n, s in {**named.evals, **named.tests}.items()} == {
        "eval/near": 20,
        "eval/far": 22,
        "test": 21,
    }
    on_test = hf(path="all", eval="test", **numbers)
    assert (len(on_test.evals["eval"]), on_test.test) == (21, None)
    held_out = hf(path="one", **numbers)
    assert (len(held_out.train), len(held_out.evals["eval"])) == (40, 10)
    swapped = hf(path="all", train="far", eval="train", test="validation", **numbers)
    assert [len(swapped.train), len(swapped.evals["eval"]), len(swapped.test)] == [22, 60, 20]


def test_pictures_become_numbers_between_0_and_1(tmp_path):
    pictures = RNG.integers(0, 256, size=(6, 5, 4), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": list(pictures), "label": [0, 1] * 3}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "pictures"))
    splits = hf(path=str(tmp_path / "pictures"), inputs="image", labels="label")
    checked = check_data(splits, "hf", {}).splits.train.read(np.arange(4))
    assert checked["inputs"].shape == (4, 5, 4, 1) and checked["inputs"].dtype == np.float32
    found = {picture.tobytes() for picture in (checked["inputs"] * 255).round().astype(np.uint8)}
    assert found <= {picture.tobytes() for picture in pictures}


def test_lists_of_different_lengths_are_padded():
    splits = hf(path="all", inputs="tokens", labels="kind", buckets=[3, 6])
    rows = check_data(splits, "hf", {}).splits.train.read(np.array([1, 3]))
    assert rows["inputs"].tolist() == [[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0]]
    assert rows["weight"].sum(axis=1).tolist() == [2.0, 4.0]
    with pytest.raises(AetheriaError, match=r"column 'inputs': expected .*; pad or cut"):
        check_data(hf(path="all", inputs="tokens", labels="kind"), "hf", {}).splits.train.read(
            np.arange(5)
        )


WRONG = {
    "no such folder": ({"path": "/nowhere"}, r"data_params\.path: expected a folder.*nowhere"),
    "no such column": (
        {"path": "all", "inputs": "y"},
        r"data_params\.inputs: expected a column 'y'",
    ),
    "a near column": ({"path": "all", "inputs": "ages"}, "did you mean 'age'"),
    "no such split": ({"path": "all", "eval": "dev"}, r"data_params\.eval: .*train, validation"),
    "no such one of several": ({"path": "all", "eval": {"a": "dev"}}, r"data_params\.eval\.a: "),
    "no such training split": ({"path": "all", "train": "dev"}, r"data_params\.train: expected"),
    "no such test split": ({"path": "all", "test": "dev"}, r"data_params\.test: expected"),
    "text": (
        {"path": "all", "inputs": "text", "labels": "kind"},
        "column 'inputs': expected numbers",
    ),
    "a number for columns": (
        {"path": "all", "columns": {"a": 3}},
        r"data_params\.a: expected a col",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case):
    params, message = WRONG[case]
    with pytest.raises(AetheriaError, match=message) as caught:
        check_data(hf(**params), "hf", {})
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_one_line(tmp_path):
    make(5).save_to_disk(str(tmp_path / "broken"))
    (tmp_path / "broken" / "state.json").write_text("{")
    with pytest.raises(
        AetheriaError, match=r"expected an undamaged dataset, got .*broken"
    ) as caught:
        hf(path=str(tmp_path / "broken"))
    assert "\n" not in str(caught.value)


def test_a_name_on_the_hub_without_a_network_is_one_line(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AetheriaError, match="a dataset on the hub, got 'someone/things'") as caught:
        hf(path="someone/things")
    assert "\n" not in str(caught.value)


def test_without_the_package_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(AetheriaError, match=r"pip install 'aetheria\[data\]'"):
        hf(path="all")
