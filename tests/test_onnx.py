"""A prediction exported as ONNX: onnxruntime computes what `Predictor` does, within a tolerance."""

import json
import subprocess
import sys

import numpy as np
import pytest
from aetheria.models.cnn import SimpleCNN
from aetheria.models.mlp import SimpleMLP
from aetheria.models.transformer import Transformer
from support.untrained import make_run, spec

from aetheria.errors import AetheriaError
from aetheria.inference import Predictor
from aetheria.snapshots import read_snapshot

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("jax2onnx")
pytestmark = pytest.mark.slow

from aetheria.tools.weights import onnx_file  # noqa: E402
from aetheria.tools.weights.programs import build_snapshot_program  # noqa: E402

CASES = {
    "mlp": (SimpleMLP, {"input_dim": 6, "num_classes": 3}, spec("float32", 6)),
    "cnn": (
        SimpleCNN,
        {"conv_dims": [4, 6], "hidden_dim": 8, "num_classes": 3, "batch_norm": True},
        spec("float32", 12, 8, 1),
    ),
    "lm": (
        Transformer,
        {"vocab_size": 11, "num_layers": 1, "width": 8, "num_heads": 2, "max_length": 5},
        spec("int32", 5),
    ),
    "strange": (SimpleMLP, {"input_dim": 6, "num_classes": 3}, spec("float32", 6)),
}
STRANGE = """
from dataclasses import dataclass

import jax.numpy as jnp

import aetheria
from aetheria.models.mlp import SimpleMLP


@aetheria.register_model("Strange")
@dataclass(frozen=True)
class Strange(SimpleMLP):
    def predict(self, params, model_state, inputs):
        squares = inputs[:, :, None] * inputs[:, None, :]
        return jnp.linalg.eigvalsh(squares)
"""
# In a process of its own: jax2onnx replaces functions of JAX and Flax.
CHILD = """
import sys
from aetheria.cli.main import main

for name in ("mlp", "cnn", "lm"):
    assert main(["export", name, "--to", f"{name}.onnx", "--format", "onnx"]) == 0
    assert main(["export", name, "--to", f"{name}.onnx", "--format", "onnx"]) == 2
assert main(["export", "strange", "--to", "s.onnx", "--format", "onnx", "--model", "Strange"]) == 2
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    for name, case in CASES.items():
        make_run(folder, name, *case)
    (folder / "models").mkdir()
    (folder / "models" / "strange.py").write_text(STRANGE)
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *taken, refused = done.stderr.splitlines()
    assert len(taken) == 3 and all("expected a name that is free" in line for line in taken)
    assert refused.startswith("export: expected operations that jax2onnx converts, got ")
    assert len(done.stdout.splitlines()) == 3, done.stdout
    assert not (folder / "s.onnx").exists()
    return folder


@pytest.mark.parametrize("name", ["mlp", "cnn", "lm"])
def test_onnxruntime_predicts_within_the_tolerance(exported, name):
    shape, dtype = CASES[name][2]["inputs"]["shape"], CASES[name][2]["inputs"]["dtype"]
    session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
    predictor = Predictor(checkpoint_path=exported / name)
    for size in (1, 5):
        inputs = (np.random.default_rng(size).random((size, *shape)) * 11).astype(dtype)
        outputs, probabilities = session.run(["outputs", "probabilities"], {"inputs": inputs})
        want = predictor.predict(inputs)
        scale = max(1.0, np.abs(want).max())
        assert np.abs(outputs - want).max() <= onnx_file.TOLERANCE * scale
        assert np.abs(probabilities - predictor.predict_proba(inputs)).max() <= 1e-5
    about = json.loads(session.get_modelmeta().custom_metadata_map["aetheria"])
    assert about["model_name"] == CASES[name][0].__name__


def test_other_outputs_than_the_predictors_are_noticed(exported):
    content = (exported / "mlp.onnx").read_bytes()

    def compare(factor):
        snapshot = read_snapshot(exported / "mlp" / "checkpoints" / "snapshot_step0")
        arrays = {n: a * factor if a.dtype == "f4" else a for n, a in snapshot.arrays.items()}
        made = build_snapshot_program(snapshot._replace(arrays=arrays), None, None)
        onnx_file._compare(made, content, 3)

    compare(np.float32(1))
    with pytest.raises(AetheriaError, match=r"got a difference of .*; use --format stablehlo"):
        compare(np.float32(1.01))
