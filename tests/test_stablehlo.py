"""A prediction exported as StableHLO: the script beside it gives the bits that `Predictor` gives,
in a process that has neither Aetheria nor Flax nor Optax.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from aetheria.models.cnn import SimpleCNN
from aetheria.models.mlp import SimpleMLP
from aetheria.models.transformer import Transformer
from support.untrained import make_run, spec

from aetheria import loops
from aetheria.errors import AetheriaError
from aetheria.hardware.jax.portable import export_predict
from aetheria.hardware.jax.prediction import PredictProgram
from aetheria.inference import Predictor
from aetheria.tools.weights.export_command import ExportCommand
from aetheria.tools.weights.new_path import new_path

pytestmark = pytest.mark.uncached
# Each is compiled for, twice by each of two processes.
SIZES = {"mlp": (1, 3, 64), "narrow": (3,), "cnn": (1, 3), "lm": (3,)}
NARROW = "params=bf16,compute=bf16,output=float32"


CASES = {
    "mlp": (
        SimpleMLP,
        {"input_dim": 64, "hidden_dim": 16, "num_classes": 10},
        spec("float32", 64),
        False,
    ),
    "narrow": (
        SimpleMLP,
        {"input_dim": 9, "hidden_dim": 16, "num_classes": 10},
        spec("float32", 9),
        NARROW,
    ),
    "cnn": (
        SimpleCNN,
        {"conv_dims": [4, 6], "hidden_dim": 8, "num_classes": 3, "batch_norm": True},
        spec("float32", 12, 8, 1),
        False,
    ),
    "lm": (
        Transformer,
        {"vocab_size": 11, "num_layers": 1, "width": 8, "num_heads": 2, "max_length": 5},
        spec("int32", 5),
        False,
    ),
}
# Runs every exported folder of the current one on the inputs beside it.
CHILD = """
import importlib.util, sys
from pathlib import Path

REFUSED = ("aetheria", "flax", "optax")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import numpy as np

for folder in sorted(Path.cwd().glob("*.exported")):
    spec = importlib.util.spec_from_file_location("predict", folder / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    name = folder.stem
    inputs = np.load(f"{name}.npy")
    outputs = {
        f"{function}{size}": module.run(function, inputs[:size])
        for function in module.ABOUT["functions"]
        for size in SIZES[name]
    }
    np.savez(f"{name}.outputs.npz", **outputs)
assert not [n for n in sys.modules if n.partition(".")[0] in REFUSED]
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of all cases, each run, exported, and computed in one other process."""
    folder = tmp_path_factory.mktemp("exported")
    for name, (kind, params, example_spec, precision) in CASES.items():
        run = make_run(folder, name, kind, params, example_spec, precision)
        column = example_spec["inputs"]
        inputs = np.random.default_rng(0).random((64, *column["shape"])) * 11
        np.save(folder / f"{name}.npy", inputs.astype(column["dtype"]))
        to = folder / f"{name}.exported"
        assert ExportCommand(snapshot=str(run), to=to, format="stablehlo").execute() == 0
    code = CHILD.replace("SIZES", repr(SIZES))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_script_alone_gives_the_bits_of_the_predictor(exported, name):
    inputs = np.load(exported / f"{name}.npy")
    predictor = Predictor(checkpoint_path=exported / name)
    with np.load(exported / f"{name}.outputs.npz") as outputs:
        assert len(outputs.files) == 2 * len(SIZES[name])
        for size in SIZES[name]:
            for function in ("predict", "predict_proba"):
                want = getattr(predictor, function)(inputs[:size])
                got = outputs[f"{function}{size}"]
                assert got.dtype == want.dtype
                np.testing.assert_array_equal(got, want)
        # The control: other weights give other bits.
        arrays = loops.read_arrays(exported / name / "checkpoints" / "snapshot_step0")
        assert any(np.asarray(a, "f4").any() for n, a in arrays.items() if n.startswith("params/"))
        assert abs(outputs["predict3"][0] - outputs["predict3"][1]).max() > 0


def test_the_manifest_says_what_the_program_is(exported):
    about = json.loads((exported / "narrow.exported" / "manifest.json").read_text())
    assert about["model_name"] == "SimpleMLP" and about["format_version"] == 1
    assert about["inputs"] == {"inputs": {"shape": ["batch", 9], "dtype": "float32"}}
    outputs = {"outputs": {"shape": ["batch", 10], "dtype": "float32"}}
    assert about["functions"] == {
        name: {"outputs": outputs} for name in ("predict", "predict_proba")
    }
    assert about["weights"]["params/Dense_0/kernel"] == {"shape": [9, 16], "dtype": "bfloat16"}
    assert about["versions"]["jax"] == jax.__version__
    assert about["calling_convention_version"] > 0 and about["platforms"] == ["cpu"]
    for name, digest in about["files"].items():
        content = (exported / "narrow.exported" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    with np.load(exported / "narrow.exported" / "weights.npz", allow_pickle=False) as weights:
        assert set(weights.files) == set(about["weights"])


def test_one_program_may_serve_several_platforms(exported, tmp_path):
    to = tmp_path / "all"
    command = ExportCommand(
        snapshot=str(exported / "mlp"), to=to, format="stablehlo", platforms=("cpu", "cuda", "tpu")
    )
    assert command.execute() == 0
    program = jax.export.deserialize(bytearray((to / "predict.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    # By the names of JAX's backends, with which its script looks them up.
    about = json.loads((to / "manifest.json").read_text())
    assert set(about["compiler_options"]) == {"cpu", "gpu"}


@dataclass(frozen=True)
class Counting(SimpleMLP):
    """Its prediction needs the number of rows as a number."""

    def predict(self, params, model_state, inputs):
        weights = np.arange(len(inputs), dtype="f4")
        return super().predict(params, model_state, inputs) * weights[:, None]


def test_a_model_that_needs_a_number_of_rows_takes_one():
    program = PredictProgram(Counting(input_dim=4), spec("float32", 4), mixed_precision=False)
    with pytest.raises(AetheriaError, match=r"a batch of any size, got .*give --batch-size N$"):
        export_predict(program)
    assert export_predict(program, batch_size=3).in_avals[-1].shape == (3, 4)


def test_a_model_without_classes_has_no_probabilities(tmp_path):
    params, columns = {"input_dim": 4, "num_classes": 0}, spec("float32", 4)
    run = make_run(tmp_path, "regressor", SimpleMLP, params, columns, False)
    to = tmp_path / "exported"
    assert ExportCommand(snapshot=str(run), to=to, format="stablehlo").execute() == 0
    assert {file.name for file in to.glob("*.stablehlo")} == {"predict.stablehlo"}


def test_a_program_of_one_batch_size_takes_any_number_of_rows(exported, tmp_path):
    to = tmp_path / "three"
    command = ExportCommand(snapshot=str(exported / "mlp"), to=to, format="stablehlo", batch_size=3)
    assert command.execute() == 0
    inputs = np.load(exported / "mlp.npy")[:7]
    np.save(tmp_path / "inputs.npy", inputs)
    arguments = ["predict", tmp_path / "inputs.npy", tmp_path / "outputs.npy"]
    subprocess.run([sys.executable, to / "predict.py", *map(str, arguments)], check=True)
    expected = Predictor(checkpoint_path=exported / "mlp").predict(inputs)
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, rtol=1e-5, atol=1e-5)


def test_what_is_half_written_has_no_name(tmp_path):
    def write(fails):
        with new_path(tmp_path / "out") as folder:
            folder.mkdir()
            (folder / "weights.npz").write_bytes(b"1")
            assert not (tmp_path / "out").exists()
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(True)
    assert not list(tmp_path.iterdir())
    write(False)  # the control
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(AetheriaError, match="expected a name that is free"):
        write(False)
    assert (tmp_path / "out" / "weights.npz").read_bytes() == b"1"
