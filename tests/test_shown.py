"""What TensorBoard and W&B show beside curves: pictures, predictions and histograms, read back with
the products' own readers, of a run that was stopped and resumed.
"""

import io
import json
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from support.image_data import images
from support.services import wandb_records
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import aetheria
from aetheria import Classifier
from aetheria.data.pictures import PictureEncoding
from aetheria.errors import AetheriaError, ModelError
from aetheria.observe.pictures import encode_png

wandb = pytest.importorskip("wandb")

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNT, STEPS, LOGGED = 3, [4, 8], [2, 4, 6, 8]
SHOWN = {"samples": COUNT, "histograms": True}
LAYERS = ("Dense_0", "Dense_1")


class Layers(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


@dataclass(frozen=True)
class Drawing(Classifier):
    """Draws its inputs upside down."""

    metrics: tuple[str, ...] = ("confusion",)

    def network(self):
        return Layers()

    def images(self, examples, outputs):
        assert outputs.shape == (len(examples["labels"]), 10)
        return {"turned": examples["inputs"][:, ::-1]}


@pytest.fixture(scope="module")
def splits():
    found = images()
    encoding = PictureEncoding(image_size=(16, 16), channels=1, classes=NAMES)
    return aetheria.DataSplits(train=found.train, eval=found.eval, encoding=encoding)


@pytest.fixture(scope="module")
def run(splits, tmp_path_factory):
    """A run that logged up to step 6 and was resumed from step 2."""
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder))

        def train(**options):
            return aetheria.train(
                model=Drawing(),
                data=splits,
                max_steps=8,
                log_every_steps=2,
                eval_every_steps=4,
                strategy="cpu",
                layer_statistics={"depth": 1, "histograms": True},
                snapshot={"every_steps": 2},
                loggers=["jsonl", {"tensorboard": SHOWN}, {"wandb": {"project": "x", **SHOWN}}],
                callbacks=[{"sample_predictions": {"count": COUNT}}],
                workdir=folder / "run",
                **options,
            )

        stopped = train(stop_at_step=6)
        for step in (4, 6):  # as if it had been killed before these were complete
            shutil.rmtree(stopped.run_dir / "checkpoints" / f"snapshot_step{step}")
        result = train(resume="latest")
        wandb.teardown()
    return result


@pytest.fixture(scope="module")
def samples(run):
    lines = (run.run_dir / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def board(run):
    # As TensorBoard's server reads it: the other reader keeps tensors that a restart drops.
    everything = dict.fromkeys(("images", "histograms", "text"), 0)
    folder = str(run.run_dir / "tensorboard")
    return EventAccumulator(folder, tensor_size_guidance=everything).Reload()


@pytest.fixture(scope="module")
def history(run):
    """What W&B has: name -> [(step, object), ...]."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for file in sorted(run.run_dir.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(file):
            if record.WhichOneof("record_type") != "history":
                continue
            row: dict[str, Any] = {}
            for item in record.history.item:
                name, *parts = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                row[name] = {**row.get(name, {}), parts[0]: value} if parts else value
            for name, value in row.items():
                found.setdefault(name, []).append((row["step"], value))
    return found


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def expected_pixels(splits):
    inputs = splits.eval.read(np.arange(COUNT))["inputs"][..., 0]
    low, high = inputs.min(axis=(1, 2), keepdims=True), inputs.max(axis=(1, 2), keepdims=True)
    return np.round((inputs - low) / (high - low) * 255).astype(np.uint8)


def test_tensorboard_has_the_pictures_of_each_evaluation(board, splits):
    inputs = expected_pixels(splits)
    for name, expected in {"inputs": inputs, "turned": inputs[:, ::-1]}.items():
        tag = f"eval/images/{name}"
        assert board.SummaryMetadata(tag).plugin_data.plugin_name == "images"
        points = board.Tensors(tag)
        assert [point.step for point in points] == STEPS
        width, height, *files = tensor_util.make_ndarray(points[-1].tensor_proto).tolist()
        assert (width, height) == (b"16", b"16")
        drawn = np.stack([pixels_of(file) for file in files])
        np.testing.assert_allclose(drawn.astype(int), expected, atol=1)


def test_tensorboard_has_the_predictions_as_a_table(board, samples):
    points = board.Tensors("eval/predictions")
    assert [point.step for point in points] == STEPS
    text = tensor_util.make_ndarray(points[-1].tensor_proto).item().decode().splitlines()
    assert text[:2] == ["| index | prediction | label |", "|---|---|---|"]
    rows = [f"| {s['index']} | {s['prediction']} | {s['label']} |" for s in samples[-COUNT:]]
    assert text[2:] == rows and samples[-1]["label"] in NAMES


def test_wandb_has_pictures_with_captions_and_a_table(history, run, samples, splits):
    inputs = expected_pixels(splits)
    last = samples[-COUNT:]
    for name, expected in {"inputs": inputs, "turned": inputs[:, ::-1]}.items():
        points = history[f"eval/images/{name}"]
        assert [step for step, _ in points] == STEPS
        shown = points[-1][1]
        captions = [f"prediction: {s['prediction']}, label: {s['label']}" for s in last]
        assert shown["_type"] == "images/separated" and shown["captions"] == captions
        files = [f"wandb/offline*/files/{file}" for file in shown["filenames"]]
        found = [next(run.run_dir.glob(file)) for file in files]
        drawn = np.stack([pixels_of(file.read_bytes()) for file in found])
        np.testing.assert_allclose(drawn.astype(int), expected, atol=1)
    points = history["eval/predictions"]
    assert [step for step, _ in points] == STEPS
    (file,) = run.run_dir.glob(f"wandb/offline*/files/{points[-1][1]['path']}")
    table = json.loads(file.read_text())
    assert table["columns"] == ["index", "prediction", "label"]
    assert table["data"] == [[str(s["index"]), s["prediction"], s["label"]] for s in last]


def test_both_have_the_confusion_matrix(board, history, run):
    counts = [[run.metrics[f"eval/confusion_{i}_{j}"] for j in range(10)] for i in range(10)]
    path = history["eval/confusion"][-1][1]["path"]
    table = json.loads(next(run.run_dir.glob(f"wandb/offline*/files/{path}")).read_text())
    assert table["columns"] == ["true \\ predicted", *NAMES]
    rows = [
        [name, *(f"{count:g}" for count in row)] for name, row in zip(NAMES, counts, strict=True)
    ]
    assert table["data"] == rows
    text = tensor_util.make_ndarray(board.Tensors("eval/confusion")[-1].tensor_proto).item()
    assert text.decode().splitlines()[2:] == [f"| {' | '.join(row)} |" for row in rows]
    *_, file = tensor_util.make_ndarray(board.Tensors("eval/images/confusion")[-1].tensor_proto)
    shares = 1 - pixels_of(file)[12::25, 12::25] / 255
    np.testing.assert_allclose(shares, counts / np.sum(counts, 1, keepdims=True), atol=0.003)


def test_both_have_the_same_histograms_of_gradients_updates_and_parameters(board, history):
    steps = {f"{kind}/{name}": LOGGED for kind in ("gradients", "updates") for name in LAYERS}
    steps |= {f"params/{name}/{leaf}": STEPS for name in LAYERS for leaf in ("bias", "kernel")}
    for name, expected in steps.items():
        points = board.Tensors(name)
        assert [point.step for point in points] == expected
        assert [step for step, _ in history[name]] == expected
        for point, (_, shown) in zip(points, history[name], strict=True):
            left, right, counts = tensor_util.make_ndarray(point.tensor_proto).T
            assert shown["_type"] == "histogram" and sum(counts) > 0
            np.testing.assert_array_equal(shown["values"], counts)
            np.testing.assert_allclose(shown["bins"], [*left, right[-1]], rtol=1e-12)


def test_a_run_without_these_looks_at_nothing(tmp_path):
    from aetheria.engine.stop import StopSignal
    from aetheria.observe.listener import RunContext
    from aetheria.observe.loggers.tensorboard import TensorBoardLogger
    from aetheria.observe.loggers.wandb import WandbLogger

    context = RunContext(run_dir=tmp_path, config={}, stop=StopSignal())
    assert TensorBoardLogger(context).inspect is None is WandbLogger(context).inspect
    assert TensorBoardLogger(context, samples=1).inspect is not None, "the control"
    for make, name in ((TensorBoardLogger, "tensorboard"), (WandbLogger, "wandb")):
        with pytest.raises(AetheriaError, match=f"loggers.{name}.samples: expected 0 or more, got"):
            make(context, samples=-1)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "expected a mapping from names to pictures, got None"),
        ({"a": np.zeros((2, 4, 4, 1))}, r"pictures \[3, height, width, 1 or 3\] of 'a', got float"),
        ({"a": np.zeros((3, 4, 4, 2))}, "return one picture an example"),
    ],
)
def test_what_a_model_draws_is_checked(made, message):
    from aetheria.model.contract import check_images

    with pytest.raises(ModelError, match=message):
        check_images(Drawing(), made, 3)
    assert set(check_images(Drawing(), {"a": np.zeros((3, 4, 4, 3))}, 3)) == {"a"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_read_as_it_was_written(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    read = pixels_of(encode_png(pixels))
    np.testing.assert_array_equal(read.reshape(pixels.shape), pixels)
