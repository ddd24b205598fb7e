"""Prediction: what it answers, from where, from how many threads, and what it refuses."""

import copy
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from support.long import long_or
from support.runs import DIGITS

from aetheria import LossOutput, Model, predict
from aetheria.cli.train import TrainCommand
from aetheria.data.datasets import diabetes, digits
from aetheria.errors import AetheriaError, RegistryError, SnapshotError
from aetheria.hardware.jax.prediction import PredictProgram
from aetheria.inference import Predictor
from aetheria.plugins import MODELS
from aetheria.snapshots import read_snapshot

REGRESSION = {
    **DIGITS,
    "data_name": "diabetes",
    "model_params": {"input_dim": 10, "hidden_dim": 8},
    "epochs": 1,
}
RUNS = {
    "classifier": {**DIGITS, "learning_rate": 0.03},
    "regressor": REGRESSION,
    "mixed": {**DIGITS, "epochs": 1, "mixed_precision": True},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three trained run folders, by name; nobody writes into them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in RUNS.items():
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        assert TrainCommand(config_file=file, workdir=folder / name).execute() == 0
    return {name: folder / name for name in RUNS}


@pytest.fixture(scope="module")
def images():
    """1,500 rows: the evaluation split over and over, f32 [1500, 64]."""
    split = digits().eval
    return split.read(np.arange(1500) % len(split))["inputs"]


@pytest.fixture(scope="module")
def classifier(runs):
    return Predictor.from_snapshot(runs["classifier"])


def snapshot(run_dir: Path, epoch: int) -> Path:
    return run_dir / "checkpoints" / f"snapshot_ep{epoch}"


def read_params(path: Path) -> dict:
    """The parameters of a snapshot as the nested dict that the model made."""
    params = {}
    for leaf, array in read_snapshot(path).arrays.items():
        if leaf.startswith("params/"):
            _, layer, name = leaf.split("/")
            params.setdefault(layer, {})[name] = array
    return params


def message(error: type[AetheriaError], call, *arguments, **options) -> str:
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_answer_is_what_the_model_computes(runs, classifier, images):
    params = read_params(snapshot(runs["classifier"], 2))
    model = MODELS.get("SimpleMLP")(**DIGITS["model_params"])
    logits = classifier.predict(images[:64])
    assert logits.shape == (64, 10) and logits.dtype == np.float32
    np.testing.assert_allclose(
        logits, jax.jit(model.predict)(params, {}, images[:64]), rtol=1e-5, atol=1e-5
    )
    exact = jax.tree.map(np.float64, params)
    hidden = images[:64] @ exact["Dense_0"]["kernel"] + exact["Dense_0"]["bias"]
    expected = np.maximum(hidden, 0) @ exact["Dense_1"]["kernel"] + exact["Dense_1"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    other = Predictor.from_snapshot(snapshot(runs["classifier"], 1))
    assert abs(other.predict(images[:64]) - expected).max() > 1e-3


def test_a_trained_classifier_classifies(classifier):
    columns = digits().eval.read(np.arange(359))
    accuracy = (classifier.predict(columns["inputs"]).argmax(-1) == columns["labels"]).mean()
    assert accuracy > 0.7


def test_name_parameters_and_path_give_the_same_as_the_snapshot_alone(runs, classifier, images):
    path = snapshot(runs["classifier"], 2)
    params = {**DIGITS["model_params"], "num_layers": 1}
    for name in ("SimpleMLP", "aetheria.models.mlp:SimpleMLP"):
        named = Predictor(model_name=name, model_params=params, checkpoint_path=path)
        np.testing.assert_array_equal(named.predict(images[:9]), classifier.predict(images[:9]))
    assert classifier.snapshot == path


def test_a_hyperparameter_that_the_snapshot_says_otherwise_is_named(runs):
    given = {"hidden_dim": 16, "dropout": 0.5, "num_layers": 2}
    for name in (None, "SimpleMLP"):
        line = message(AetheriaError, Predictor, name, given, runs["classifier"])
        assert line.startswith("model_params.dropout: expected 0.1, as in ")
        assert line.endswith("got 0.5; leave it out")


def test_a_size_that_the_data_decided_may_be_given(images, tmp_path):
    """`input_dim` is not in the config, so the snapshot says 0."""
    config = {**DIGITS, "model_params": {"num_classes": 10, "hidden_dim": 16}, "epochs": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    TrainCommand(config_file=tmp_path / "config.yaml", workdir=tmp_path / "run").execute()
    path = snapshot(tmp_path / "run", 1)
    answer = Predictor("SimpleMLP", {"input_dim": 64}, path).predict(images[:3])
    np.testing.assert_array_equal(answer, Predictor(checkpoint_path=path).predict(images[:3]))
    line = message(AetheriaError, Predictor, "SimpleMLP", {"input_dim": 10}, path)
    assert line.startswith("model_params.input_dim: expected 64, the shape of the data's inputs")


def test_a_path_is_found_from_here_and_then_in_the_newest_run(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        run_dir = tmp_path / "runs" / "mlp" / str(number)
        shutil.copytree(runs["classifier"], run_dir)
        os.utime(run_dir / "config.json", (number, number))
    newest = Path("runs/mlp/2/checkpoints")
    resolve = lambda path: Predictor(checkpoint_path=path).snapshot
    assert resolve("checkpoints/snapshot_ep1.pt") == newest / "snapshot_ep1"
    assert resolve("checkpoints/snapshot_ep1") == newest / "snapshot_ep1"
    assert resolve("snapshot_ep2.pt") == newest / "snapshot_ep2"
    os.utime("runs/mlp/1/config.json", (3, 3))
    assert resolve("snapshot_ep2") == Path("runs/mlp/1/checkpoints/snapshot_ep2")
    assert resolve("runs/mlp/2") == newest / "snapshot_ep2"
    assert resolve(tmp_path / "runs" / "mlp" / "2") == tmp_path / newest / "snapshot_ep2"
    shutil.copytree(snapshot(runs["classifier"], 1), "checkpoints/snapshot_ep1")
    assert resolve("checkpoints/snapshot_ep1.pt") == Path("checkpoints/snapshot_ep1")
    line = message(SnapshotError, resolve, "checkpoints/snapshot_ep9.pt")
    assert line.startswith("snapshot: expected one at checkpoints/snapshot_ep9.pt, got nothing")
    assert "runs/mlp/1/checkpoints/snapshot_ep2" in line


def test_batches_of_any_size_agree_row_by_row(classifier, images):
    whole = classifier.predict(images)
    assert whole.shape == (1500, 10)
    for size in (0, 1, 3, 1024):
        part = classifier.predict(images[:size])
        assert part.shape == (size, 10) and part.dtype == np.float32
        np.testing.assert_allclose(part, whole[:size], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        classifier.predict(images[1499:]), whole[1499:], rtol=1e-5, atol=1e-5
    )
    assert abs(whole[0] - whole[1]).max() > 0.1  # rows are not alike anyway


def test_many_threads_get_the_bits_that_one_gets(runs, images):
    num_threads, num_calls = long_or(8, 32), long_or(50, 200)
    sizes = [1, 2, 3, 7, 8, 31, 33, 64, *([] if long_or(0, 1) else [100, 129, 200])]
    starts = [(7 * number) % 1000 for number in range(num_calls)]
    calls = [(start, sizes[n % len(sizes)]) for n, start in enumerate(starts)]
    fresh = Predictor.from_snapshot(runs["classifier"])  # compiles while the threads call it
    answer = lambda call: fresh.predict(images[call[0] : call[0] + call[1]])
    barrier = threading.Barrier(num_threads)

    def work(thread: int) -> list[np.ndarray]:
        barrier.wait()
        return [answer(call) for call in calls[thread:] + calls[:thread]]

    with ThreadPoolExecutor(num_threads) as pool:
        answers = list(pool.map(work, range(num_threads)))
    buckets = {1 << (size - 1).bit_length() for size in sizes}
    assert fresh.num_compilations == len(buckets)
    serial = [answer(call) for call in calls]
    for thread, got in enumerate(answers):
        for expected, array in zip(serial[thread:] + serial[:thread], got, strict=True):
            assert np.array_equal(expected, array)


def test_no_answer_mixes_the_weights_before_and_after_a_reload(runs, images):
    paths = [snapshot(runs["classifier"], epoch) for epoch in (1, 2)]
    batch, options = images[:64], {"max_batch_size": 8, "batch_sizes": (8,)}  # eight pieces a call
    expected = [Predictor.from_snapshot(path, **options).predict(batch) for path in paths]
    assert not np.isclose(*expected).any(axis=1).all()
    predictor = Predictor.from_snapshot(paths[0], **options)
    done = threading.Event()

    def work(_) -> list[int]:
        seen = []
        while not done.is_set():
            answer = predictor.predict(batch)
            seen.append([np.array_equal(answer, one) for one in expected].index(True))
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = [pool.submit(work, thread) for thread in range(4)]
        for path in paths[::-1] * 3:
            predictor.reload(path)
        done.set()
        assert {which for future in seen for which in future.result()} == {0, 1}
    np.testing.assert_array_equal(predictor.predict(batch), expected[0])


def test_reload_reads_the_same_path_again(runs, tmp_path, images):
    path = tmp_path / "snapshot_ep1"
    shutil.copytree(snapshot(runs["classifier"], 1), path)
    predictor = Predictor.from_snapshot(path)
    before = predictor.predict(images[:4])
    shutil.rmtree(path)
    shutil.copytree(snapshot(runs["classifier"], 2), path)
    np.testing.assert_array_equal(predictor.predict(images[:4]), before)
    predictor.reload()
    assert not np.array_equal(predictor.predict(images[:4]), before)


def test_a_copy_shares_the_program_until_one_of_both_reloads(runs, images):
    first = Predictor.from_snapshot(snapshot(runs["classifier"], 1))
    before, compiled = first.predict(images[:4]), first.num_compilations
    other = copy.copy(first)
    other.reload(snapshot(runs["classifier"], 2))
    assert (first.step, other.step) == (23, 46)
    after = other.predict(images[:4])
    assert other.num_compilations == compiled  # weights of the same model
    np.testing.assert_array_equal(first.predict(images[:4]), before)
    expected = Predictor.from_snapshot(snapshot(runs["classifier"], 2)).predict(images[:4])
    np.testing.assert_array_equal(after, expected)
    assert not np.array_equal(before, after)
    other.reload(runs["regressor"])  # another model: another program
    assert other.predict(diabetes().eval.read(np.arange(4))["inputs"]).shape == (4, 1)


def test_in_one_batch_size_a_row_has_the_same_bits_in_any_company(runs, images):
    path = runs["classifier"]
    predictor = Predictor.from_snapshot(path, min_batch_size=8, max_batch_size=8)
    whole = predictor.predict(images[:20])
    for start, size in ((0, 1), (3, 2), (5, 8), (2, 15)):
        part = predictor.predict(images[start : start + size])
        np.testing.assert_array_equal(part, whole[start : start + size])
    assert predictor.num_compilations == 1
    line = message(
        AetheriaError, Predictor.from_snapshot, path, min_batch_size=16, max_batch_size=8
    )
    assert line == "min_batch_size: expected at most max_batch_size (8), got 16; lower it"


def test_concurrent_calls_are_joined_where_no_bit_changes(runs, images):
    predictor = Predictor.from_snapshot(runs["classifier"], min_batch_size=8, max_batch_size=64)
    sizes = np.random.default_rng(0).integers(1, 9, 200)
    pieces = [images[size : 2 * size] for size in sizes]
    serial = [predictor.predict_proba(piece) for piece in pieces]
    with predictor.joined(max_delay_seconds=0.02) as joined, ThreadPoolExecutor(16) as pool:
        for answer, expected in zip(pool.map(joined.predict_proba, pieces), serial, strict=True):
            np.testing.assert_array_equal(answer, expected)
        assert joined.num_batches < 150  # of 200 calls
        one, expected = joined.predict(images[0]), predictor.predict(images[0])
        np.testing.assert_array_equal(one, expected)
        assert one.shape == (10,)
        assert "[3, 63]" in message(AetheriaError, joined.predict, images[:3, :63])
        before = joined.predict(images[:3])
        predictor.reload(snapshot(runs["classifier"], 1))  # does not reach it
        np.testing.assert_array_equal(joined.predict(images[:3]), before)
        joined.reload(snapshot(runs["classifier"], 1))
        np.testing.assert_array_equal(joined.predict(images[:3]), predictor.predict(images[:3]))
        assert not np.array_equal(joined.predict(images[:3]), before)
    assert "got a closed one" in message(AetheriaError, joined.predict, images[:3])
    with predictor.joined(max_delay_seconds=0) as alone, ThreadPoolExecutor(16) as pool:
        [*pool.map(alone.predict, pieces)]
        assert alone.num_batches == 200  # a control
    line = message(AetheriaError, predictor.joined, max_rows=0)
    assert line == "max_rows: expected 1 or more, got 0; leave it out"


def test_encoded_inputs_have_the_answer_of_the_inputs(classifier, images):
    assert classifier.input_spec.shape == (1, 64)
    encoded = classifier.encode(images[:3].astype(np.float64).tolist()).arrays
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(classifier.predict(encoded), classifier.predict(images[:3]))
    arrays, is_single = classifier.encode(images[0])
    assert arrays.shape == (1, 64) and is_single
    assert "[3, 63]" in message(AetheriaError, classifier.encode, images[:3, :63])


def test_a_reload_that_fails_leaves_everything_as_it_was(runs, tmp_path, images):
    predictor = Predictor("SimpleMLP", DIGITS["model_params"], runs["classifier"])
    path, before = predictor.snapshot, predictor.predict(images[:4])
    damaged = damage(snapshot(runs["classifier"], 1), tmp_path / "snapshot_ep1")
    for bad in (tmp_path / "nothing", damaged, runs["regressor"]):
        with pytest.raises(AetheriaError):
            predictor.reload(bad)
        assert predictor.snapshot == path
        np.testing.assert_array_equal(predictor.predict(images[:4]), before)


def damage(source: Path, target: Path) -> Path:
    """Copies a snapshot and exchanges the digests of two of its leaves in the copy's manifest."""
    shutil.copytree(source, target)
    file = target / "manifest" / "metadata"
    manifest = json.loads(file.read_text())
    leaves = manifest["leaves"]
    one, other = leaves["params/Dense_0/kernel"], leaves["params/Dense_1/kernel"]
    one["sha256"], other["sha256"] = other["sha256"], one["sha256"]
    file.write_text(json.dumps(manifest))
    return target


def test_a_damaged_snapshot_is_refused_and_the_leaf_named(runs, tmp_path):
    source = snapshot(runs["classifier"], 1)
    line = message(
        SnapshotError, Predictor.from_snapshot, damage(source, tmp_path / "snapshot_ep1")
    )
    assert "leaf 'params/Dense_0/kernel': expected the digest in the manifest" in line
    Predictor.from_snapshot(shutil.copytree(source, tmp_path / "snapshot_ep2"))  # whole, it loads


def test_a_snapshot_with_a_flipped_byte_is_refused(runs, tmp_path):
    path = shutil.copytree(snapshot(runs["classifier"], 1), tmp_path / "snapshot_ep1")
    # Of a parameter: the optimizer's state, in the same file, is none of a predictor's business.
    kernel = read_snapshot(path).arrays["params/Dense_0/kernel"].tobytes()
    files = [file for file in (path / "state").rglob("*") if file.is_file()]
    (holding,) = [file for file in files if kernel in file.read_bytes()]
    content = bytearray(holding.read_bytes())
    content[content.index(kernel) + len(kernel) // 2] ^= 1
    holding.write_bytes(content)
    assert str(path) in message(SnapshotError, Predictor.from_snapshot, path)


def test_weights_of_another_shape_are_refused_and_the_leaf_named(runs):
    line = message(
        SnapshotError,
        Predictor,
        model_name="aetheria.models.mlp:SimpleMLP",  # of which the snapshot says nothing
        model_params={"hidden_dim": 32},
        checkpoint_path=runs["classifier"],
    )
    assert "expected 'params/Dense_0/bias' to be float32[32], got float32[16]" in line


def test_requests_that_make_no_sense_are_one_line(runs):
    path = runs["classifier"]
    assert "checkpoint_path: expected a snapshot" in message(AetheriaError, Predictor, "SimpleMLP")
    line = message(RegistryError, Predictor, model_name="SimplMLP", checkpoint_path=path)
    assert "use 'SimpleMLP'" in line
    options = {"model_params": {"hiden_dim": 3}, "checkpoint_path": path}
    assert "did you mean 'hidden_dim'?" in message(AetheriaError, Predictor, **options)
    options = {"checkpoint_path": path, "max_batch_size": 100}
    assert "expected a power of two, got 100" in message(AetheriaError, Predictor, **options)


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (np.zeros((3, 63), np.float32), "[3, 63]"),
        (np.zeros(63, np.float32), "[63]"),
        (np.zeros((2, 8, 8), np.float32), "[2, 8, 8]"),
        (np.float32(0), "[]"),
        ([], "[0]"),
        (None, "[]"),
        (np.full((2, 64), "a"), "<U1"),
        (np.zeros((2, 64), np.complex64), "complex64"),
        (np.full((2, 64), None), "object"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous shape"),
    ],
)
def test_inputs_unlike_those_of_training_are_one_error(classifier, inputs, got):
    for call in (classifier.predict, classifier.predict_proba):
        line = message(AetheriaError, call, inputs)
        assert line.startswith("predict: expected ") and got in line


def test_inputs_may_come_as_lists_wider_floats_or_device_arrays(classifier, images):
    expected = classifier.predict(images[:5])
    for inputs in (images[:5].tolist(), images[:5].astype(np.float64), jnp.asarray(images[:5])):
        np.testing.assert_array_equal(classifier.predict(inputs), expected)
    counts = np.ones((2, 64), np.int64)
    np.testing.assert_array_equal(
        classifier.predict(counts), classifier.predict(counts.astype(np.float32))
    )


def test_probabilities_sum_to_one_and_rank_as_the_logits_do(classifier, images):
    probabilities = classifier.predict_proba(images)
    assert probabilities.shape == (1500, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert probabilities.min() >= 0
    logits = classifier.predict(images).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_one_example_has_one_answer(classifier, images):
    expected, classes = classifier.predict(images[:1]), classifier.predict_proba(images[:1])
    for example in (images[0], images[0].tolist(), jnp.asarray(images[0])):
        np.testing.assert_array_equal(classifier.predict(example), expected[0])
        np.testing.assert_array_equal(classifier.predict_proba(example), classes[0])
    assert classifier.predict(images[:0]).shape == (0, 10)


@pytest.mark.parametrize("num_rows", [1, 5, 64])
def test_an_answer_may_be_written_to_unless_it_is_no_copy(runs, classifier, images, num_rows):
    """Twice: the second call of a batch size that is a power of two takes a shorter way."""
    lending = Predictor(checkpoint_path=runs["classifier"], copy=False)
    lending = pickle.loads(pickle.dumps(lending))
    rows = images[:num_rows].copy()
    for _ in range(2):
        answer, lent = classifier.predict(rows), lending.predict(rows)
        assert answer.flags.writeable and not lent.flags.writeable
        before = lent.copy()
        np.testing.assert_array_equal(lent, answer)
        rows[:], answer[:] = 0, np.nan
        lending.predict(rows)
        np.testing.assert_array_equal(lent, before)
        rows[:] = images[:num_rows]


def test_tensors_of_pytorch_and_data_frames_are_arrays(classifier, images):
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    expected = classifier.predict(images[:3])
    tensor = torch.tensor(images[:3], requires_grad=True)
    for inputs in (tensor, pandas.DataFrame(images[:3])):
        np.testing.assert_array_equal(classifier.predict(inputs), expected)


def test_after_a_warmup_nothing_is_compiled(runs, images):
    predictor = Predictor(checkpoint_path=runs["classifier"], max_batch_size=64)
    assert predictor.num_compilations == 0
    predictor.warmup([33], probabilities=False)
    assert predictor.num_compilations == 1
    predictor.warmup()
    assert predictor.num_compilations == 2 * 7  # 1, 2, 4, ..., 64
    for size in (1, 2, 3, 17, 64, 65, 1000):
        predictor.predict(images[:size])
        predictor.predict_proba(images[:size])
    assert predictor.num_compilations == 2 * 7
    regressor = Predictor(checkpoint_path=runs["regressor"], max_batch_size=2)
    regressor.warmup()
    assert regressor.num_compilations == 2


def test_all_devices_share_a_batch(runs, classifier, images):
    shared = Predictor(checkpoint_path=runs["classifier"], data_parallel=True, max_batch_size=64)
    weights = jax.tree.leaves(shared._loaded.weights)
    assert {len(leaf.sharding.device_set) for leaf in weights} == {8}
    for size in (1, 8, 100):
        expected = classifier.predict(images[:size])
        np.testing.assert_allclose(shared.predict(images[:size]), expected, rtol=1e-5, atol=1e-5)


def test_averaged_weights_are_left_out_on_request(train_once, images):
    folder = train_once("averaged", ema_decay=0.9).run_dir
    raw, averaged = (Predictor(checkpoint_path=folder, averaged=each) for each in (False, True))
    arrays = read_snapshot(snapshot(folder, 2)).arrays
    (average,) = (path for path in arrays if path.endswith("averaged_params/Dense_0/kernel"))
    for predictor, path in ((raw, "params/Dense_0/kernel"), (averaged, average)):
        kernel = predictor._loaded.weights.params["Dense_0"]["kernel"]
        np.testing.assert_array_equal(kernel, arrays[path])
    assert abs(raw.predict(images[:9]) - averaged.predict(images[:9])).max() > 1e-3


# What a process is given: a pickle to predict with, and where the answer goes.
UNPICKLE = """
import pickle, sys
import numpy as np
from pathlib import Path

predictor, inputs = pickle.loads(Path(sys.argv[1]).read_bytes())
np.save(sys.argv[2], predictor.predict(inputs))
"""


def test_a_predictor_is_pickled_as_a_path_and_does_not_survive_a_fork(
    runs, classifier, images, tmp_path
):
    pickled, answer = tmp_path / "predictor.pickle", tmp_path / "answer.npy"
    pickled.write_bytes(pickle.dumps((classifier, images[:9])))
    assert len(pickled.read_bytes()) < images[:9].nbytes + 2000
    environ = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, "-c", UNPICKLE, pickled, answer]
    subprocess.run(command, check=True, env=environ, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(answer), classifier.predict(images[:9]))

    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of JAX, that this hangs
        child = os.fork()
    if not child:
        try:
            classifier.predict(images[:9])
        except AetheriaError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(read, 4096).decode()
    assert said.startswith("predict: expected the process that made the predictor, got a fork")


def test_a_regressor_predicts_but_has_no_probabilities(runs):
    predictor = Predictor.from_snapshot(runs["regressor"])
    inputs = diabetes().eval.read(np.arange(88))["inputs"]
    assert predictor.predict(inputs).shape == (88, 1)
    line = message(AetheriaError, predictor.predict_proba, inputs)
    assert line == "predict_proba: expected a model with classes, got SimpleMLP; use predict"
    assert predictor.predict(inputs).shape == (88, 1)  # and goes on


def test_the_functions_answer_as_the_predictor_does(runs, classifier, images):
    path = runs["classifier"]
    expected = classifier.predict(images[:6])
    loaded = predict.load(path, max_batch_size=256)
    for model in (loaded, path, str(snapshot(path, 2))):
        np.testing.assert_array_equal(predict.predict(model, images[:6]), expected)
    np.testing.assert_array_equal(
        predict.predict_proba(path, images[:6]), classifier.predict_proba(images[:6])
    )
    with pytest.raises(SnapshotError):
        predict.predict_batches("no/such/snapshot", [])


def test_batches_are_predicted_when_they_are_asked_for(classifier, images):
    asked = []

    def batches():
        for start in itertools.count(0, 4):
            asked.append(start)
            yield images[start : start + 4]

    answers = predict.predict_batches(classifier, batches())
    assert asked == []
    np.testing.assert_array_equal(next(answers), classifier.predict(images[:4]))
    np.testing.assert_array_equal(next(answers), classifier.predict(images[4:8]))
    assert asked == [0, 4]


def test_precision_is_that_of_training_unless_asked_otherwise(runs, images):
    path = snapshot(runs["mixed"], 1)
    model = MODELS.get("SimpleMLP")(**DIGITS["model_params"])
    to_bfloat16 = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)
    as_trained = Predictor.from_snapshot(path).predict(images[:32])
    half = jax.jit(model.predict)(to_bfloat16(read_params(path)), {}, to_bfloat16(images[:32]))
    assert as_trained.dtype == np.float32
    np.testing.assert_array_equal(as_trained, half)
    full = Predictor.from_snapshot(path, mixed_precision=False).predict(images[:32])
    exact = jax.jit(model.predict)(read_params(path), {}, images[:32])
    np.testing.assert_allclose(full, exact, rtol=1e-5, atol=1e-5)
    assert 0 < abs(full - as_trained).max() < 0.1


@dataclass(frozen=True)
class Counted(Model):
    """Doubles its inputs, gives a tree of outputs, and counts how often it is traced."""

    traced: tuple = (threading.Lock(), [])

    def init(self, rng, example_batch):
        return {"factor": jnp.ones(())}, {}

    def loss(self, params, model_state, batch, rng, train):
        return LossOutput(params["factor"], jnp.ones(()), {}, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(0.1)

    def predict(self, params, model_state, inputs):
        with self.traced[0]:
            self.traced[1].append(inputs.shape[0])
        return {"double": inputs * 2 * params["factor"], "sum": inputs.sum(-1)}


def make_program(**options) -> tuple[PredictProgram, list[int], dict]:
    model = Counted((threading.Lock(), []))
    spec = {"inputs": {"shape": [3], "dtype": "float32"}, "mask": {"shape": [], "dtype": "float32"}}
    program = PredictProgram(model, spec, mixed_precision=False, **options)
    return program, model.traced[1], program.place({"params/factor": np.ones((), np.float32)})


def test_every_bucket_is_compiled_once_however_many_ask():
    program, traced, weights = make_program(max_batch_size=16)
    barrier = threading.Barrier(8)

    def work(size: int) -> None:
        barrier.wait()
        program.run(weights, np.ones((size, 3), np.float32))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [5, 6, 7, 8, 5, 6, 7, 8]))
    assert traced == [8]
    for size in range(70):
        program.run(weights, np.ones((size, 3), np.float32))
    assert sorted(traced) == [1, 2, 4, 8, 16]


def test_outputs_may_be_a_tree():
    program, _, weights = make_program(max_batch_size=4)
    inputs = np.arange(33, dtype=np.float32).reshape(11, 3)
    outputs = program.run(weights, inputs)
    np.testing.assert_array_equal(outputs["double"], inputs * 2)
    np.testing.assert_array_equal(outputs["sum"], inputs.sum(-1))


def test_a_model_without_a_column_of_inputs_is_one_line():
    model, spec = Counted(), {"tokens": {"shape": [3], "dtype": "int32"}}
    line = message(AetheriaError, PredictProgram, model, spec, mixed_precision=False)
    assert line.startswith("predict: expected a model trained on a column 'inputs', got tokens")


def test_inputs_of_another_scale_are_pointed_out_once(train, recwarn):
    """The digits are divided by 16 by the dataset; raw pixels would be answered wrongly."""
    run = train("run", max_steps=1)
    predictor = Predictor(checkpoint_path=run.run_dir)
    raw = np.tile(np.arange(16, dtype="f4"), 4)[None]
    with pytest.warns(
        UserWarning, match=r"inputs: expected values like .*from 0 to 1, got 0 to 15;"
    ):
        predictor.predict(raw)
    predictor.predict(raw)
    again = Predictor(checkpoint_path=run.run_dir)
    again.predict(raw / 16)  # the control
    assert not recwarn.list
