"""The callbacks on samples, time and profiles, and histograms of parameters."""

import base64
import gzip
import io
import json
import time

import numpy as np
import pytest
from support.image_data import images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import aetheria
from aetheria.errors import AetheriaError
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.store import list_snapshots

SAMPLES = {"callbacks": [{"sample_predictions": {"count": 3}}], "eval_every_steps": 10}


def samples_of(run):
    return [json.loads(line) for line in (run.run_dir / "samples.jsonl").read_text().splitlines()]


def test_samples_are_the_predictions_of_each_evaluation(train):
    run = train("samples", callbacks=SAMPLES["callbacks"])
    rows = samples_of(run)
    assert [(r["step"], r["index"]) for r in rows] == [(s, i) for s in (23, 46) for i in range(3)]
    assert all(set(r) == {"step", "split", "index", "prediction", "label"} for r in rows)
    evaluated = aetheria.data.datasets.digits().eval.read(np.arange(3))
    assert [r["label"] for r in rows[-3:]] == evaluated["labels"].tolist()
    predictor = aetheria.Predictor(checkpoint_path=run.run_dir)
    expected = predictor.predict(evaluated["inputs"]).argmax(-1).tolist()
    assert [r["prediction"] for r in rows[-3:]] == expected


def test_a_resumed_run_writes_no_sample_twice(train):
    whole = samples_of(train("whole", **SAMPLES))
    assert train("resumed", **SAMPLES, stop_at_step=15).exit_code == 75
    again = train("resumed", **SAMPLES, stop_at_step=25, resume="latest")
    with (again.run_dir / "samples.jsonl").open("a") as file:  # of a process that was killed later
        file.write(json.dumps({**whole[-1], "step": 30}) + '\n{"step": 4')
    assert samples_of(train("resumed", **SAMPLES, resume="latest")) == whole


def test_samples_show_pictures_and_the_names_of_classes(tmp_path):
    from PIL import Image

    from aetheria.data.pictures import PictureEncoding

    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    splits = images()
    encoding = PictureEncoding(image_size=(16, 16), channels=1, classes=names)
    data = aetheria.DataSplits(train=splits.train, eval=splits.eval, encoding=encoding)
    result = aetheria.train(
        model_name="SimpleCNN",
        model_params={"conv_dims": [4], "hidden_dim": 8, "num_classes": 10},
        data=data,
        max_steps=2,
        learning_rate=0.003,
        loggers=[],
        callbacks=["sample_predictions"],
        workdir=tmp_path / "run",
    )
    rows = samples_of(result)
    assert len(rows) == 8
    pixels = splits.eval.read(np.arange(8))["inputs"][..., 0]
    for row, original in zip(rows, pixels, strict=True):
        assert row["prediction"] in names and row["label"] in names
        kind, _, content = row["picture"].partition(",")
        assert kind == "data:image/png;base64"
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert np.corrcoef(drawn.ravel(), original.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ({"sample_predictions": {"count": 0}}, "sample_predictions: expected count of 1 or more"),
        ({"sample_predictions": {"split": "dev"}}, "split one of eval, test, got 8 and 'dev'"),
        ({"time_limit": {}}, "expected max_seconds or max_seconds_per_start above 0, got None"),
        (
            {"time_limit": {"max_seconds": 0}},
            "expected max_seconds .* got 0.0 and None",
        ),
        ({"profiler": {"num_steps": 0}}, "profiler: expected start_step and num_steps of 1 or"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_a_wrong_argument_is_one_line_before_anything_is_written(train, callback, message):
    with pytest.raises(AetheriaError, match=message) as error:
        train("wrong", callbacks=[callback])
    assert len(str(error.value).splitlines()) == 1


FOREVER = {"epochs": 100_000, "log_every_steps": 1000, "loggers": []}


def test_the_time_of_one_start_is_limited_and_the_next_continues(train):
    limit = {"callbacks": [{"time_limit": {"max_seconds_per_start": 0.01}}]}
    first = train("start", **FOREVER, **limit)
    assert first.exit_code == 75
    assert first.summary["reason"] == "time limit: 0.01 seconds of this start"
    num_steps = first.summary["steps"]
    longer = {"callbacks": [{"time_limit": {"max_seconds_per_start": 1.5}}]}
    began = time.monotonic()
    second = train("start", **FOREVER, **longer, resume="latest")
    assert second.exit_code == 75 and time.monotonic() - began > 1
    assert second.summary["steps"] > num_steps
    assert list_snapshots(second.run_dir / "checkpoints")[-1].step == second.summary["steps"]


def test_the_time_of_all_starts_is_counted_and_completes_the_run(train):
    def limited(seconds):
        return {"callbacks": [{"time_limit": {"max_seconds": seconds}}]}

    first = train("total", **FOREVER, **limited(1000), stop_at_step=5)
    assert first.exit_code == 75
    snapshot = read_snapshot(first.run_dir / "checkpoints" / "snapshot_step5")
    spent = snapshot.record.listeners["time_limit"]["seconds"]
    assert 0 < spent < 100
    # What the first start took already is more than the limit: nothing is trained any more.
    second = train("total", **FOREVER, **limited(spent / 2), resume="latest", accept_changes=True)
    assert second.exit_code == 0 and second.summary["status"] == "completed"
    assert second.summary["reason"].startswith("time limit: ")
    assert second.summary["steps"] == 5


def test_the_profiler_records_some_steps_and_changes_no_bit(train):
    window = {"callbacks": [{"profiler": {"start_step": 10, "num_steps": 5}}], "log_every_steps": 5}
    recorded, plain = train("recorded", **window), train("plain", log_every_steps=5)
    assert recorded.summary["detached_listeners"] == {}
    assert recorded.summary["params_sha256"] == plain.summary["params_sha256"]
    folder = recorded.run_dir / "tensorboard" / "plugins" / "profile"
    (trace,), (xplane,) = folder.glob("*/*.trace.json.gz"), folder.glob("*/*.xplane.pb")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert any("train_steps" in name for name in names)
    assert b"train_steps" in xplane.read_bytes()
    assert not (plain.run_dir / "tensorboard").exists()


def test_pytorch_is_refused_by_the_profiler_in_one_line(train):
    pytest.importorskip("torch")
    with pytest.raises(AetheriaError, match="profiler: expected a strategy of JAX, got 'torch'"):
        train("torch", callbacks=["profiler"], strategy="torch")


def test_tensorboard_shows_histograms_of_the_parameters(train):
    run = train("histograms", loggers=[{"tensorboard": {"histograms": True}}])
    read = EventAccumulator(str(run.run_dir / "tensorboard"), size_guidance={"tensors": 0})
    read.Reload()
    arrays = read_snapshot(run.run_dir / "checkpoints" / "snapshot_ep2").arrays
    params = {path: np.asarray(a) for path, a in arrays.items() if path.startswith("params/")}
    assert set(params) <= set(read.Tags()["tensors"])
    for tag, array in params.items():
        points = read.Tensors(tag)
        assert [point.step for point in points] == [23, 46]
        metadata = read.SummaryMetadata(tag)
        assert metadata.plugin_data.plugin_name == "histograms"
        left, right, count = tensor_util.make_ndarray(points[-1].tensor_proto).T
        expected, edges = np.histogram(array.astype(np.float64), 32)
        np.testing.assert_array_equal(count, expected)
        np.testing.assert_array_equal((left, right), (edges[:-1], edges[1:]))
