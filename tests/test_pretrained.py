"""A model that starts from weights of a file: read once, by a run that starts afresh alone."""

import numpy as np
import pytest

from aetheria import loops
from aetheria.errors import AetheriaError
from aetheria.inference import Predictor

FINE_TUNED = """
from dataclasses import dataclass

import numpy as np

import aetheria
from aetheria.models.mlp import SimpleMLP


@aetheria.register_model("FineTuned")
@dataclass(frozen=True)
class FineTuned(SimpleMLP):
    file: str = ""

    def pretrained(self, params, model_state):
        with np.load(self.file) as arrays:
            params["Dense_0"] = {"kernel": arrays["kernel"], "bias": arrays["bias"]}
        return params, model_state
"""
BROKEN = {
    "return None": "expected a pair (params, model_state), got None",
    "return {**params, 'Dense_9': params['Dense_0']}, model_state": "'Dense_9/",
    "params['Dense_0']['kernel'] = np.zeros((3, 4)); return params, model_state": (
        "expected 'Dense_0/kernel' as init makes it, shape [64, 16], got shape [3, 4]"
    ),
    "del params['Dense_0']; return params, model_state": "got no such leaf",
}


@pytest.fixture
def file(tmp_path):
    """Pretrained weights, float64; and a project whose model reads them."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "fine_tuned.py").write_text(FINE_TUNED)
    kernel = np.random.default_rng(0).normal(size=(64, 16))
    np.savez(tmp_path / "weights.npz", kernel=kernel, bias=np.full(16, 0.25))
    return tmp_path / "weights.npz"


def config(file, **more):
    params = {"input_dim": 64, "hidden_dim": 16, "num_classes": 10, "file": str(file)}
    return {"model_name": "FineTuned", "model_params": params, **more}


WAYS = {
    "one device": {},
    "mesh": {"strategy": "mesh", "mesh": {"data": 2, "fsdp": 2}},
    "elastic": {"reproducibility": "elastic", "mesh": {"data": 2}, "strategy": "mesh"},
    "bf16": {"mixed_precision": "params=bf16,compute=bf16"},
    "averaged": {"ema_decay": 0.9},
    "torch": {"strategy": "torch"},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=[*WAYS])
def test_a_run_starts_from_the_file_and_never_reads_it_again(train, file, way):
    if way.get("strategy") == "torch":
        pytest.importorskip("torch")
    whole = train("whole", **config(file, **way, learning_rate=0.0, max_steps=2))
    arrays = loops.read_arrays(whole.run_dir / "checkpoints" / "snapshot_step2")
    with np.load(file) as given:
        kept = np.asarray(arrays["params/Dense_0/kernel"], np.float32)
        np.testing.assert_allclose(
            kept, given["kernel"], rtol=1e-2 if "mixed_precision" in way else 1e-6
        )
        assert not np.allclose(np.asarray(arrays["params/Dense_1/kernel"], np.float32), 0)
        for name, leaf in arrays.items():
            if name.endswith("averaged_params/Dense_0/kernel"):
                np.testing.assert_allclose(leaf, given["kernel"], rtol=1e-5)


def test_without_the_file_a_run_resumes_and_predicts(train, file):
    whole = train("whole", **config(file, max_steps=4))
    train("run", **config(file, max_steps=4), stop_at_step=2)
    file.unlink()
    resumed = train("run", **config(file, max_steps=4), resume="latest")
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    predictor = Predictor(
        checkpoint_path=whole.run_dir / "checkpoints" / "snapshot_step4",
        model_name="FineTuned",
        project=file.parent,
    )
    assert predictor.predict(np.zeros((2, 64), "f4")).shape == (2, 10)
    with pytest.raises(FileNotFoundError):  # the control: a fresh run reads it
        train("fresh", **config(file, max_steps=4))


@pytest.mark.parametrize(("body", "says"), BROKEN.items())
def test_a_wrong_tree_is_one_line_with_the_leaf(train, file, body, says):
    code = FINE_TUNED.split("        with np.load")[0] + f"        {body}\n"
    (file.parent / "models" / "fine_tuned.py").write_text(code)
    with pytest.raises(AetheriaError) as caught:
        train("run", **config(file, max_steps=1))
    assert says in str(caught.value) and "FineTuned.pretrained" in str(caught.value)
    assert "\n" not in str(caught.value)
