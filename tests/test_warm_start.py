"""A model that starts from the parameters of another run's snapshot."""

from dataclasses import dataclass

import jax
import numpy as np
import optax
import pytest
from aetheria.models.mlp import SimpleMLP

import aetheria
from aetheria.errors import SnapshotError
from aetheria.snapshots import read_snapshot

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(200, 5)).astype(np.float32)
QUIET = {"loggers": [], "batch_size": 50, "strategy": "cpu", "epochs": 2}


@dataclass(frozen=True, kw_only=True)
class Tuned(SimpleMLP):
    """The first layer of another run, which stays as it is, and a new last layer."""

    start: str = ""
    num_classes: int = 2

    def pretrained(self, params, model_state):
        trained = aetheria.load_params(self.start) if self.start else params
        return {**trained, "Dense_1": params["Dense_1"]}, model_state

    def optimizer(self, total_steps):
        rules = {"head": optax.adam(0.1), "frozen": optax.set_to_zero()}
        group = lambda params: {name: "head" if name == "Dense_1" else "frozen" for name in params}
        return aetheria.clip(self.max_grad_norm, optax.multi_transform(rules, group))


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A run that keeps averaged parameters."""
    monkeypatch.chdir(tmp_path)
    model = SimpleMLP(num_classes=4, hidden_dim=8, ema_decay=0.9)
    labels = 2 * (INPUTS[:, 0] > 0) + (INPUTS[:, 1] > 0)
    return aetheria.train(model=model, data=(INPUTS, labels), workdir="base", **QUIET)


def test_a_model_starts_from_the_averaged_parameters_of_a_snapshot_and_resumes(base):
    loaded = aetheria.load_params("base@latest")
    arrays = read_snapshot(base.snapshot).arrays
    averaged = [path for path in arrays if path.endswith("averaged_params/Dense_0/kernel")]
    kernel = loaded["Dense_0"]["kernel"]
    assert np.array_equal(kernel, arrays[averaged[0]])
    assert not np.array_equal(kernel, arrays["params/Dense_0/kernel"])

    data = (INPUTS, INPUTS[:, 0] > 0)
    model = Tuned(hidden_dim=8, start="base@latest")
    tuned = aetheria.train(model=model, data=data, **QUIET)
    longer = tuned.resume(epochs=4)
    for result in (tuned, longer):
        params = aetheria.load_params(result.snapshot)
        assert jax.tree.all(jax.tree.map(np.array_equal, params["Dense_0"], loaded["Dense_0"]))
        assert params["Dense_1"]["kernel"].shape == (8, 2)
    assert longer.summary["steps"] == 2 * tuned.summary["steps"]
    # The control: without it the first layer is another.
    fresh = aetheria.train(model=Tuned(hidden_dim=8), data=data, **QUIET)
    assert not np.array_equal(aetheria.load_params(fresh.run_dir)["Dense_0"]["kernel"], kernel)


def test_what_is_no_snapshot_is_one_line_before_anything_compiles(base):
    model = Tuned(hidden_dim=8, start="base@3")
    with pytest.raises(SnapshotError, match="base") as raised:
        aetheria.train(model=model, data=(INPUTS, INPUTS[:, 0] > 0), workdir="tuned", **QUIET)
    assert "\n" not in str(raised.value)
    leaf = max((base.snapshot / "state").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(leaf.read_bytes())
    data[len(data) // 2] ^= 1
    leaf.write_bytes(data)
    with pytest.raises(SnapshotError, match="snapshot_ep2"):
        aetheria.load_params(base.snapshot)
