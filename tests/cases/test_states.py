"""What a state may hold: it trains, is saved, resumes and predicts; or it is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.long import covering

from aetheria.inference import Predictor
from aetheria.snapshots.snapshot_files import read_snapshot

PROJECT = Path(__file__).parent / "project"


def summary(run: str) -> dict:
    return json.loads(Path(run, "summary.json").read_text())


@pytest.mark.parametrize(
    "params",
    covering(
        [
            {"kind": "bare"},
            {"kind": "bare", "ema_decay": 0.9},
            {"kind": "empty_leaf", "state": "empty"},
            {"kind": "complex", "state": "complex", "ema_decay": 0.9},
            {"state": "key"},
            {"state": "rbg_key"},
        ],
        default=[
            {"kind": "bare", "ema_decay": 0.9},
            {"kind": "complex", "state": "complex", "ema_decay": 0.9},
            {"state": "rbg_key"},
        ],
    ),
)
def test_an_unusual_state_trains_resumes_and_predicts(train, params):
    config = {"model_name": "OddState", "model_params": params, "batch_size": 128}
    whole = train("--workdir", "whole", **config, max_steps=4)
    assert whole.code == 0, whole.err
    assert summary("whole")["snapshot_failures"] == []
    half = train("--workdir", "half", "--stop-at-step", "2", **config, max_steps=4)
    assert half.code == 75, half.err
    rest = train("--workdir", "half", "--resume", "latest", **config, max_steps=4)
    assert rest.code == 0, rest.err
    assert summary("whole")["params_sha256"] == summary("half")["params_sha256"]

    rows = np.random.default_rng(0).normal(size=(5, 10)).astype("float32")
    outputs = Predictor(checkpoint_path="whole", project=PROJECT).predict(rows)
    assert outputs.shape == (5,) and np.isfinite(outputs).all()
    arrays = read_snapshot(Path("whole/checkpoints/snapshot_step4")).arrays
    if "ema_decay" in params:
        of = "params" if params["kind"] == "bare" else "params/c"
        average = arrays["opt_state/averaged_params" + of.removeprefix("params")]
        assert average.dtype == arrays[of].dtype
        assert not np.array_equal(average, arrays[of])  # it lags behind, in both of its parts
        if params["kind"] == "bare":
            np.testing.assert_allclose(outputs, rows @ average, rtol=1e-4)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"kind": "whole"}, ["params/count", "int32", "keep what is not trained in model_state"]),
        ({"kind": "truth"}, ["params/flag", "bool"]),
        ({"kind": "slash"}, ["params/a/b", "rename one"]),
        ({"kind": "dot"}, ["params/a.b", "params/a/b", "rename one"]),
        ({"kind": "inner"}, ["params/a", "params/a/b", "rename one"]),
        ({"kind": "parent"}, ["params/..", "rename"]),
        ({"kind": "nameless"}, ["rename"]),
    ],
    ids=str,
)
def test_a_state_that_cannot_be_kept_is_refused_before_anything_compiles(train, params, words):
    train(model_name="OddState", model_params=params).assert_refused(*words)


def test_a_key_in_the_state_is_refused_with_lanes(train):
    answer = train(model_name="OddState", model_params={"state": "key"}, reproducibility="elastic")
    answer.assert_refused("model_state/key", "reproducibility elastic")


def test_lanes_merge_complex_statistics_as_their_mean(train):
    config = {"model_name": "OddState", "model_params": {"state": "complex"}, "batch_size": 128}
    for level in ("fast", "elastic"):
        answer = train("--workdir", level, **config, max_steps=1, reproducibility=level)
        assert answer.code == 0, answer.err
    means = [
        read_snapshot(Path(level, "checkpoints/snapshot_step1")).arrays["model_state/mean"]
        for level in ("fast", "elastic")
    ]
    assert abs(means[0].real) > 1e-4 and abs(means[0].imag) > 1e-4
    np.testing.assert_allclose(means[1], means[0], rtol=1e-5)


def test_a_hundred_leaves_train_and_are_saved(train):
    answer = train(model_name="OddState", model_params={"kind": "many"}, max_steps=2)
    assert answer.code == 0, answer.err
    assert summary("runs/case/1")["snapshot_failures"] == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"grad_accumulation_steps": 2}, ["grad_accumulation_steps: expected 1", "Contrastive"]),
        ({"reproducibility": "elastic"}, ["reproducibility: expected 'fast'", "Contrastive"]),
    ],
    ids=str,
)
def test_a_loss_over_the_whole_batch_is_refused_where_batches_are_cut(train, config, words):
    train(model_name="Contrastive", batch_size=64, **config).assert_refused(*words)


def test_a_loss_over_the_whole_batch_would_change_where_batches_are_cut(train):
    def final(workdir: str, name: str, **config: object) -> float:
        answer = train("--workdir", workdir, model_name=name, batch_size=64, **config)
        assert answer.code == 0, answer.err
        return summary(workdir)["params_sha256"]

    whole = final("a", "Contrastive")
    assert final("b", "SaysItDecomposes") == whole
    assert final("c", "SaysItDecomposes", grad_accumulation_steps=4) != whole
