"""Weights under JAX's leaf names: written, read, imported in part, and refused where hostile."""

import json
import os
import pickle
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import aetheria
from aetheria.errors import AetheriaError
from aetheria.inference import Predictor
from aetheria.snapshots import read_snapshot
from aetheria.tools.weights.export_command import ExportCommand
from aetheria.tools.weights.import_command import ImportCommand

INPUTS = np.random.default_rng(0).random((5, 64), dtype="f4")


@pytest.fixture(scope="module")
def run(train_once):
    return train_once("run", max_steps=3).run_dir


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    to = tmp_path_factory.mktemp("file") / "digits.safetensors"
    assert ExportCommand(snapshot=str(run), to=to, format="safetensors").execute() == 0
    return to


def message(call, *arguments, **options):
    with pytest.raises(AetheriaError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_file_of_leaves_predicts_what_the_snapshot_does(run, file, tmp_path):
    expected = Predictor(checkpoint_path=run).predict(INPUTS)
    np.testing.assert_array_equal(Predictor(checkpoint_path=file).predict(INPUTS), expected)
    workdir = tmp_path / "imported"
    assert ImportCommand(file=file, workdir=workdir).execute() == 0
    np.testing.assert_array_equal(Predictor(checkpoint_path=workdir).predict(INPUTS), expected)
    ours, theirs = aetheria.load_params(file), aetheria.load_params(run)
    np.testing.assert_array_equal(ours["Dense_0"]["kernel"], theirs["Dense_0"]["kernel"])
    # The control: one number decides.
    arrays = load_file(file)
    arrays["params/Dense_1/bias"] = arrays["params/Dense_1/bias"] + 1
    save_file(arrays, tmp_path / "other.safetensors")
    options = {"model_name": "SimpleMLP", "input_shape": (64,)}
    options["model_params"] = {"hidden_dim": 16, "num_classes": 10, "input_dim": 64}
    other = Predictor(checkpoint_path=tmp_path / "other.safetensors", **options)
    np.testing.assert_allclose(other.predict(INPUTS), expected + 1, rtol=1e-5)


def test_bfloat16_stays_bfloat16(train, tmp_path):
    run = train("narrow", max_steps=1, mixed_precision="params=bf16,compute=bf16").run_dir
    to = tmp_path / "narrow.safetensors"
    ExportCommand(snapshot=str(run), to=to, format="safetensors").execute()
    arrays = read_snapshot(run / "checkpoints" / "snapshot_step1").arrays
    kernel = aetheria.load_params(to)["Dense_0"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    assert kernel.tobytes() == arrays["params/Dense_0/kernel"].tobytes()
    np.testing.assert_array_equal(
        Predictor(checkpoint_path=to).predict(INPUTS),
        Predictor(checkpoint_path=run).predict(INPUTS),
    )


def test_a_new_head_is_allowed_only_when_it_is_asked_for(file, tmp_path, capsys):
    two = ("model_params.num_classes=2",)
    line = message(ImportCommand(file=file, workdir=tmp_path / "run", overrides=two).execute)
    assert line.startswith(f"{file}: expected the leaves of the model, got 2 leaves that match, ")
    assert "'params/Dense_1/kernel': float32[16, 10] in the file, float32[16, 2]" in line
    assert line.endswith("give --partial to keep the model's own values elsewhere")
    assert not (tmp_path / "run").exists()
    command = ImportCommand(file=file, workdir=tmp_path / "run", overrides=two, partial=True)
    assert command.execute() == 0
    assert "2 leaves that match, 2 of another shape or dtype" in capsys.readouterr().out
    params = aetheria.load_params(tmp_path / "run")
    assert params["Dense_1"]["kernel"].shape == (16, 2)
    np.testing.assert_array_equal(
        params["Dense_0"]["kernel"], load_file(file)["params/Dense_0/kernel"]
    )
    assert Predictor(checkpoint_path=tmp_path / "run").predict(INPUTS).shape == (5, 2)


def test_parameters_are_read_into_those_of_another_model(run, file):
    own = {
        "Dense_0": {"kernel": np.zeros((64, 16), "f4"), "bias": np.zeros(16, "f4")},
        "Dense_1": {"kernel": np.zeros((16, 2), "f4"), "bias": np.zeros(2, "f4")},
        "Dense_2": {"bias": np.ones(3, "f4")},
    }
    for path in (file, run):
        line = message(aetheria.load_params, path, into=own)
        assert "1 missing in the file ('Dense_2/bias')" in line and "partial=True" in line
        with pytest.warns(UserWarning, match="2 leaves that match, 1 missing"):
            got = aetheria.load_params(path, into=own, partial=True)
        assert got["Dense_0"]["kernel"].any() and not got["Dense_1"]["kernel"].any()
        assert got["Dense_2"]["bias"].sum() == 3
    stranger = {"other": np.zeros(3, "f4")}
    line = message(aetheria.load_params, file, into=stranger, partial=True)
    assert "0 leaves that match" in line
    assert "give both" in message(aetheria.load_params, file, partial=True)


def with_header(header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text)) + text + data


def hostile_files(file):
    """Name -> bytes, and what the one line says."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    about = json.loads(header["__metadata__"]["aetheria"])

    def leaf(**changes):
        name = "params/Dense_0/kernel"
        return with_header({**header, name: {**header[name], **changes}}, data)

    def saying(**changes):
        metadata = {"format": "jax", "aetheria": json.dumps({**about, **changes})}
        return with_header({**header, "__metadata__": metadata}, data)

    class Hostile:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    flipped = bytearray(content)
    flipped[-3] ^= 1
    kernel = header["params/Dense_0/kernel"]
    return {
        "length": (struct.pack("<Q", 1 << 60) + content[8:], "header too large"),
        "short": (struct.pack("<Q", size + (1 << 20)) + content[8:], "SafetensorError"),
        "offsets": (leaf(data_offsets=[0, 1 << 40]), "SafetensorError"),
        "negative": (leaf(data_offsets=[-8, 8]), "SafetensorError"),
        "shape": (leaf(shape=[1 << 40, 1 << 40]), "SafetensorError"),
        "dtype": (leaf(dtype="PICKLE"), "SafetensorError"),
        "truncated": (content[: len(content) // 2], "SafetensorError"),
        "nested": (with_header(b"[" * 100_000), "SafetensorError"),
        "pickle": (pickle.dumps({"w": Hostile()}), "SafetensorError"),
        "empty": (b"", "SafetensorError"),
        "flipped": (bytes(flipped), "another digest than the file says"),
        "path": (with_header({"params/../x": {**kernel}}, data), "Error"),
        "name": (saying(model_name="os:system"), "which a file may not choose"),
        "names": (saying(model_name=["SimpleMLP"]), "model_name: expected text"),
        "params": (saying(model_params={"hidden_dim": {"__class__": "x"}}), "model_params"),
        "spec": (saying(example_spec={"inputs": {"shape": [1e9], "dtype": "O"}}), "example_spec"),
        "version": (saying(format_version=99), "expected format_version 1, got 99"),
        "extra": (saying(code="import os"), "expected no field code"),
        "deep": (
            with_header({"__metadata__": {"format": "jax", "aetheria": "[" * 100_000}}),
            "RecursionError",
        ),
    }


def test_no_hostile_file_is_read_or_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (content, says) in hostile_files(file).items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        for call in (
            lambda path=path: Predictor(checkpoint_path=path),
            ImportCommand(file=path, workdir=tmp_path / "run").execute,
        ):
            line = message(call)
            assert says in line, (name, line)
            assert str(path) in line or name == "params", (name, line)
    assert not (tmp_path / "executed").exists() and not (tmp_path / "run").exists()
    Predictor(checkpoint_path=file)  # the control: as it is, it is read


def test_wrong_requests_are_one_line_each_and_write_nothing(run, file, tmp_path, command):
    (tmp_path / "taken.safetensors").touch()
    save_file({"a/b": np.zeros(2, "f4")}, tmp_path / "plain.safetensors")
    save_file({"layers.0.weight": np.zeros(2, "f4")}, tmp_path / "torch.safetensors")
    safetensors = ["--format", "safetensors"]
    cases = [
        (["export", run, "--to", "taken.safetensors", *safetensors], "expected a name that is"),
        (["export", run, "--to", "x.bin", *safetensors], "a name that ends in .safetensors"),
        (["export", run, "--to", "x.pt", "--platforms", "cpu,tpu"], "expected --format stablehlo"),
        (["export", run, "--to", "x.pt", "--batch-size", "3"], "expected --format stablehlo or"),
        (["export", run, "--to", "/proc/x.safetensors", *safetensors], "a place that can be"),
        (
            ["export", run, "--to", "d", "--format", "stablehlo", "--platforms", "gpu"],
            "some of cpu",
        ),
        (
            ["import", "plain.safetensors", "--workdir", "new"],
            "expected a description of its model",
        ),
        (["import", "x.pt", "--workdir", "new", "--partial"], "--partial: expected a .safetensors"),
    ]
    for arguments, says in cases:
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert "got PyTorch's" in message(aetheria.load_params, tmp_path / "torch.safetensors")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"taken.safetensors", "plain.safetensors", "torch.safetensors"}
    assert (tmp_path / "taken.safetensors").stat().st_size == 0
