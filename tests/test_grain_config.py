"""Random-access sources of Grain by config: import paths, ArrayRecord files, and what is wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import aetheria
from aetheria.data.checks import check_data
from aetheria.errors import AetheriaError

grain = pytest.importorskip("grain")
from aetheria.data.grain_sources import grain as grain_data  # noqa: E402

SOURCES = """
import os
from os import system

import grain
import numpy as np

def rows(split="train", count=40):
    seed = {"train": 0, "val": 1, "ood": 2, "test": 3}[split]
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    return [{"inputs": row, "labels": row[:1] * 2} for row in x]

def make(split="train", count=40):
    return grain.MapDataset.source(rows(split, count)).map(lambda each: each)

def endless():
    return grain.MapDataset.source(rows()).repeat()

def a_stream():
    return grain.MapDataset.source(rows()).to_iter_dataset()

def pairs():
    return [(each["inputs"], each["labels"]) for each in rows()]

def decode(record):
    values = np.frombuffer(record, np.float32)
    return {"inputs": values[:3], "labels": values[3:]}

def as_it_is(record):
    return record

def twice(record):
    return {**record, "inputs": record["inputs"] * 2}
"""
CONFIG = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 3, "hidden_dim": 8},
    "data_name": "grain",
    "epochs": 1,
    "batch_size": 8,
    "strategy": "cpu",
    "loggers": ["jsonl"],
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with a file of sources, which Python finds as a run would."""
    (tmp_path / "models").mkdir()
    (tmp_path / "my_sources.py").write_text(SOURCES)
    (tmp_path / "bare.py").write_text("def make():\n    raise AssertionError('it was called')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_sources", "bare"):
        sys.modules.pop(name, None)


@pytest.fixture
def importable(project):
    sys.path.append(str(project))
    return project


def train(project, **data_params):
    (project / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data_params": data_params}))
    return aetheria.train("config.yaml", workdir="run", overwrite=True)


def test_a_source_by_import_path_trains_with_several_splits(project):
    params = {
        "source": "my_sources:make",
        "args": {"count": 50},
        "eval_args": {"val": {"split": "val"}, "ood": {"split": "ood", "count": 30}},
        "test_args": {"split": "test"},
    }
    run = train(project, **params)
    sizes = {each["split"]: each.get("num_examples") for each in run.history}
    assert (sizes["eval/val"], sizes["eval/ood"], sizes["test"]) == (40, 30, 40)
    # A change of its file is noticed on a resume, as one of a dataset's own function is.
    with (project / "my_sources.py").open("a") as file:
        file.write("# another\n")
    code = (run.run_dir / "checkpoints").glob("snapshot_*/record/metadata")
    assert '"data_params.source"' in next(code).read_text()


def test_examples_are_those_of_the_source(importable):
    splits = grain_data(source="my_sources:make", eval_args={"split": "val"})
    import my_sources  # pyright: ignore[reportMissingImports]

    read = check_data(splits, "grain", {}).splits.train.read(np.array([2, 0]))
    np.testing.assert_array_equal(read["inputs"], [my_sources.rows()[i]["inputs"] for i in (2, 0)])
    doubled = grain_data(source="my_sources:make", decode="my_sources:twice", eval_args={})
    np.testing.assert_array_equal(
        doubled.train.read(np.array([2]))["inputs"], 2 * read["inputs"][:1]
    )
    held_out = grain_data(source="my_sources:pairs")
    assert (len(held_out.train), len(held_out.evals["eval"])) == (32, 8)


def write_records(path, count, seed):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    rows = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    for row in rows:
        writer.write(row.tobytes())
    writer.close()
    return rows


def test_array_record_files_train(project):
    rows = write_records(project / "a.array_record", 30, 0)
    write_records(project / "b.array_record", 20, 1)
    write_records(project / "c.array_record", 10, 2)
    params = {
        "files": ["a.array_record", "b.array_record"],
        "eval_files": {"near": "c.array_record", "far": ["b.array_record"]},
        "test_files": "c.array_record",
        "decode": "my_sources:decode",
    }
    run = train(project, **params)
    assert set(run.metrics) >= {"eval/near/loss", "eval/far/loss", "test/loss"}
    splits = grain_data(**params)
    assert len(splits.train) == 50
    np.testing.assert_array_equal(splits.train.read(np.array([7]))["inputs"][0], rows[7, :3])


WRONG = {
    "neither": ({}, "expected source .* or files .*, got neither"),
    "both": ({"source": "my_sources:make", "files": "a"}, "got both"),
    "no decode": ({"files": "a"}, r"data_params\.decode: expected a function"),
    "no path": ({"source": "my_sources"}, r"data_params\.source: expected an import path"),
    "no module": ({"source": "nowhere:make"}, "'nowhere:make': expected nowhere:make to import"),
    "no attribute": ({"source": "my_sources:maek"}, "expected my_sources:maek to import"),
    "the standard library": ({"source": "os:system"}, "Python's standard library"),
    "something it imports": ({"source": "my_sources:system"}, "expected a function or class from"),
    "a module": ({"source": "my_sources:os"}, "expected a function or class from a file that imp"),
    "a file that does not import it": ({"source": "bare:make"}, "from a file that imports grain"),
    "a function of ours": ({"source": "aetheria:train"}, "from a file that imports grain"),
    "another package's": ({"source": "numpy:load"}, "from a file that imports grain or aetheria"),
    "a decode of the kind": (
        {"files": "a", "decode": "numpy:load"},
        r"data_params\.decode: expected a function or class from a file",
    ),
    "an argument it lacks": (
        {"source": "my_sources:make", "args": {"splitt": "val"}},
        r"data_params\.args\.splitt: .*did you mean 'split'",
    ),
    "endless": ({"source": "my_sources:endless"}, "repeats without end"),
    "records of bytes": (
        {"files": "good.array_record", "decode": "my_sources:as_it_is"},
        r"data_params\.files: expected examples that are mappings .* got a bytes",
    ),
    "a stream": ({"source": "my_sources:a_stream"}, "expected a source with a length and an index"),
    "no file": (
        {"files": "no.array_record", "decode": "my_sources:decode"},
        "got 'no.array_record'",
    ),
    "no files": ({"files": [], "decode": "my_sources:decode"}, r"data_params\.files: .*got \[\]"),
    "a damaged file": (
        {"files": "bad.array_record", "decode": "my_sources:decode"},
        r"data_params\.files: expected ArrayRecord files, got .*",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_calls_nothing(case, importable):
    write_records(importable / "good.array_record", 3, 0)
    Path("bad.array_record").write_bytes(b"x" * 300_000)
    params, message = WRONG[case]
    with pytest.raises(AetheriaError, match=message) as caught:
        grain_data(**params)
    assert "\n" not in str(caught.value)
