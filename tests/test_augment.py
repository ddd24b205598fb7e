"""Augmentation: a function of (example, rng), for training alone, that no interruption moves."""

import functools
import itertools

import numpy as np
import pytest
from support.long import long_or

import aetheria
from aetheria import loops
from aetheria.data import ArraySource, DataSplits, Feed
from aetheria.data.augmentation import Augmentation
from aetheria.data.feed import epoch_order
from aetheria.data.image_augmentations import (
    BY_NAME,
    Brightness,
    Crop,
    Flip,
    ResizedCrop,
    build_augmentations,
)
from aetheria.errors import AetheriaError, SnapshotError
from aetheria.model.classes import Classes
from aetheria.snapshots import read_snapshot

SIZE = 50


def source(num_examples=SIZE):
    inputs = np.random.default_rng(1).normal(size=(num_examples, 4)).astype(np.float32)
    return ArraySource({"inputs": inputs, "labels": (inputs.sum(1) > 0).astype(np.int32)})


def noisy(example, rng):
    return {**example, "inputs": example["inputs"] + rng.normal(0, 0.5, 4)}


class Stateful:
    """What a run must not depend on: the order in which examples happen to be augmented."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, example, rng):
        return noisy(example, self.rng)


def augmented(indices, epoch=0, seed=0, function=noisy):
    data, indices = source(), np.array(indices)
    augmentation = Augmentation(function, data, {}, seed)
    return augmentation(data.read(indices), indices, epoch)["inputs"]


def test_the_generator_is_a_function_of_seed_epoch_and_index_alone():
    whole = augmented(range(SIZE))
    np.testing.assert_array_equal(augmented([7, 3, 7])[[0, 1, 2]], whole[[7, 3, 7]])
    noise = [
        a - source().read(np.arange(SIZE))["inputs"] for a in (whole, augmented(range(SIZE), 1))
    ]
    noise.append(augmented(range(SIZE), seed=1) - source().read(np.arange(SIZE))["inputs"])
    values = np.concatenate([n.ravel() for n in noise])
    assert len(np.unique(values.round(5))) > 0.98 * len(values), "each draws its own numbers"
    stateful = [augmented([5], function=f) for f in (Stateful(), Stateful())]
    np.testing.assert_array_equal(*stateful)
    function = Stateful()
    assert (augmented([5], function=function) != augmented([5], function=function)).any()


def test_the_streams_of_examples_and_of_the_order_do_not_meet():
    draw = lambda example, rng: {"x": rng.integers(0, 2**63, 4).astype(np.float32)}
    data = ArraySource({"x": np.zeros((9, 4), np.float32)})
    drawn = Augmentation(draw, data, {}, 0)(data.read(np.arange(9)), np.arange(9), 0)["x"]
    order = np.random.Philox(key=np.array([0, 0], np.uint64)).random_raw(4 * 9) >> np.uint64(1)
    assert len(np.unique(drawn)) == drawn.size
    assert not set(order.astype(np.float32).tolist()) & set(drawn.ravel().tolist())


def feed(num_readers=1, function=noisy, **options):
    splits = DataSplits(train=source(), eval=source(), augment=function)
    augment = Augmentation(function, splits.train, {}, 0)
    options = {"batch_size": 16, "num_slices": 2, "seed": 0, **options}
    return Feed(splits=splits, augment=augment, num_readers=num_readers, **options)


def chunks_of(feed, seen=0, count=5):
    chunks = feed.train_chunks(seen, 1)
    taken = [chunk.arrays for chunk in itertools.islice(chunks, count)]
    chunks.close()
    return taken


def test_training_examples_alone_are_augmented_and_every_epoch_anew():
    made = feed()
    plain = source().read(np.arange(SIZE))["inputs"]
    of_eval = [b["inputs"][b["mask"] == 1] for b in made.eval_batches()]
    np.testing.assert_array_equal(np.concatenate(of_eval), plain)
    chunks = chunks_of(made, count=8)
    epochs = [
        np.concatenate([c["inputs"].reshape(-1, 4)[: (c["mask"] == 1).sum()] for c in part])
        for part in (chunks[:4], chunks[4:])
    ]
    one, two = (rows[np.argsort(epoch_order(0, n, SIZE))] for n, rows in enumerate(epochs))
    assert one.shape == plain.shape and (one != plain).all() and (one != two).all()


@pytest.mark.parametrize("num_readers", [2, 3])
def test_readers_and_processes_see_the_same_examples(num_readers):
    expected = chunks_of(feed())
    np.testing.assert_equal(chunks_of(feed(num_readers)), expected)
    np.testing.assert_equal(chunks_of(feed(num_readers), 16, 4), expected[1:])
    for process in range(2):
        part = (slice(process, process + 1), slice(None))
        for whole, own in zip(expected, chunks_of(feed(part=part)), strict=True):
            np.testing.assert_array_equal(own["inputs"], whole["inputs"][:, process : process + 1])


def test_a_loop_of_ones_own_augments_too():
    batches = loops.Batches(source(), batch_size=16, augment=noisy, num_readers=2)
    found = list(itertools.islice(batches.train(16), 3))
    for batch, chunk in zip(found, chunks_of(feed(num_slices=1), 16, 3), strict=True):
        np.testing.assert_array_equal(batch.columns["inputs"], chunk["inputs"][0, 0])
    plain = np.concatenate([b["inputs"][b["mask"] == 1] for b in batches.once()])
    np.testing.assert_array_equal(plain, source().columns["inputs"])


CONFIG = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 4, "hidden_dim": 8, "num_classes": 2},
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.01,
    "strategy": "cpu",
    "loggers": ["jsonl"],
    "snapshot": {"every_steps": 3},
}


@pytest.fixture
def train(tmp_path):
    def train(name, function=noisy, **options):
        splits = DataSplits(train=source(), eval=source(20), augment=function)
        keys = {k: options.pop(k) for k in ("resume", "stop_at_step") if k in options}
        config = {**CONFIG, **options}
        return aetheria.train(config, data=splits, workdir=tmp_path / name, **keys)

    return train


def sha256(result):
    return result.summary["params_sha256"]


def test_a_run_under_augmentation_resumes_to_the_same_bits(train):
    whole = train("whole")
    assert sha256(train("plain", None)) != sha256(whole)
    assert train("stopped", stop_at_step=6).status == "preempted"  # in the middle of an epoch
    assert sha256(train("stopped", resume="latest")) == sha256(whole)
    # As after a kill: the steps after an older snapshot are done again.
    older = whole.run_dir.parent / "stopped" / "checkpoints" / "snapshot_step3"
    assert sha256(train("again", resume=str(older))) == sha256(whole)
    controls = [train("other", Stateful()), train("half", Stateful(), stop_at_step=6)]
    controls[1] = train("half", Stateful(), resume="latest")
    assert sha256(controls[0]) != sha256(controls[1])


def test_an_elastic_run_under_augmentation_has_the_same_bits_on_any_number_of_devices(train):
    runs = [
        train(f"on {n}", reproducibility="elastic", strategy="mesh", mesh={"data": n})
        for n in (1, long_or(2, 4))
    ]
    assert sha256(runs[0]) == sha256(runs[1])
    fast = train("fast", strategy="mesh", mesh={"data": 1})  # the control
    assert sha256(fast) != sha256(runs[0])


def test_the_function_belongs_to_the_provenance_of_a_run(train, capfd):
    stopped = train("run", stop_at_step=3)
    provenance = read_snapshot(stopped.snapshot).record.run.provenance
    assert provenance.code["augment"].file.endswith("test_augment.py")
    assert not provenance.data["train"].random, "the data is fingerprinted as it lies there"
    with pytest.raises(SnapshotError, match=r"augment as .*test_augment\.py\), got none; bring"):
        train("run", None, resume="latest")
    train("heart", overfit_batches=1, max_steps=1)
    assert "16 examples to train and evaluate on, without augmentation" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("flip", "augment: expected a function of (example, rng), got 'flip'; give one"),
        (lambda example: example, "augment: expected a function of (example, rng), got <lambda> ("),
        (lambda example, rng: None, "row 0: expected an example, a mapping of inputs, labels, got"),
        (
            lambda example, rng: {"inputs": example["inputs"]},
            "row 0: expected the columns inputs, labels, got inputs; return {**example, 'inputs'",
        ),
        (
            lambda example, rng: {**example, "inputs": example["inputs"][:3]},
            "column 'inputs': expected the shape [4] that it had, got [3] in row 0",
        ),
        (
            lambda example, rng: {**example, "labels": example["labels"] + 0.5},
            "column 'labels': expected int32 as in row 0, got float32 1.5 in row 0",
        ),
        (
            lambda example, rng: {**example, "labels": 7},
            "column 'labels': expected class numbers from 0 to 1, got 7 in row 0",
        ),
        (
            lambda example, rng: {**example, "inputs": "text"},
            "column 'inputs': expected numbers, got",
        ),
    ],
)
def test_a_function_that_does_not_fit_is_one_line_that_names_it(function, message):
    data = ArraySource({"inputs": np.zeros((3, 4)), "labels": [1, 0, 1]})
    with pytest.raises(AetheriaError) as caught:
        Augmentation(function, data, {"labels": Classes(2)}, 0)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    if callable(function):
        assert "test_augment.py:" in str(caught.value)


def test_a_function_may_change_what_it_is_given_and_is_given_columns_as_a_model_is():
    data = ArraySource({"inputs": {"a": np.ones((3, 2)), "b": np.zeros(3)}, "id": [0, 1, 2]})

    def change(example, rng, by):
        example["inputs"]["a"] *= by
        example["inputs"]["b"] = example["id"]
        return example

    function = functools.partial(change, by=3)
    columns = Augmentation(function, data, {}, 0)(data.read(np.array([2])), np.array([2]), 0)
    assert {n: c.tolist() for n, c in columns.items()} == {
        "inputs/a": [[3, 3]],
        "inputs/b": [2],
        "id": [2],
    }
    assert data.columns["inputs/a"].max() == 1


IMAGE = np.random.default_rng(0).random((8, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("name", BY_NAME)
def test_augmentations_of_pictures_keep_shape_dtype_and_range(name):
    function = build_augmentations([name], "augment")
    images = [
        function({"inputs": IMAGE}, np.random.default_rng(seed))["inputs"] for seed in range(20)
    ]
    for image in images:
        assert image.shape == IMAGE.shape and image.dtype == np.float32
        assert image.min() >= 0 and image.max() <= 1
    assert any((image != IMAGE).any() for image in images)
    again = function({"inputs": IMAGE}, np.random.default_rng(3))["inputs"]
    np.testing.assert_array_equal(again, images[3])


def test_augmentations_of_pictures_do_what_they_say():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(Flip(1.0)(IMAGE, rng), IMAGE[:, ::-1])
    np.testing.assert_array_equal(Flip(1.0, vertical=True)(IMAGE, rng), IMAGE[::-1])
    np.testing.assert_array_equal(Flip(0.0)(IMAGE, rng), IMAGE)
    np.testing.assert_array_equal(Crop(0.0)(IMAGE, rng), IMAGE)
    np.testing.assert_allclose(ResizedCrop(1.0)(np.full_like(IMAGE, 0.5), rng), 0.5, atol=1e-6)
    brighter = Brightness(0.5)(IMAGE / 2, rng) / (IMAGE / 2)
    assert brighter.std() < 1e-6 and 0.5 <= brighter[0, 0, 0] <= 1.5
    shifted = {Crop(0.25)(IMAGE, np.random.default_rng(n))[4, 6].tobytes() for n in range(300)}
    assert shifted <= {pixel.tobytes() for pixel in IMAGE[2:7, 3:10].reshape(-1, 3)}
    assert len(shifted) == 5 * 7, "every shift of up to 2 rows and 3 columns"
