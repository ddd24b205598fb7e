"""Averaged parameters: what they are, who uses them, and that nothing of them is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.long import covering
from support.programs import make_spec, train_step
from support.runs import DIGITS

from aetheria.errors import SnapshotError
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.evaluation import evaluated
from aetheria.hardware.layout.state import TrainState
from aetheria.inference import Predictor
from aetheria.model.averaging import AverageState, with_average
from aetheria.plugins import DATA, MODELS
from aetheria.snapshots import read_snapshot

AVERAGED = {**DIGITS, "ema_decay": 0.9}


def test_the_average_is_the_moving_one_of_the_parameters_after_each_update():
    optimizer = with_average(0.3, optax.sgd(0.5))
    params = {"w": jnp.array([1.0, -2.0]), "n": jnp.array(3, jnp.int32)}
    state = optimizer.init(params)
    expected = np.array([1.0, -2.0])
    for step in range(6):
        grads = {"w": jnp.array([1.0, step]), "n": jnp.array(0, jnp.int32)}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * np.asarray(params["w"])
        np.testing.assert_allclose(state.averaged_params["w"], expected, rtol=1e-6)
    assert int(state.num_updates) == 6 and int(state.averaged_params["n"]) == 3


def test_the_inner_optimizer_is_the_same_with_and_without():
    plain, averaged = optax.adam(0.1), with_average(0.99, optax.adam(0.1))
    params = {"w": jnp.arange(3.0)}
    grads = {"w": jnp.array([0.1, -0.2, 0.3])}
    ours, _ = averaged.update(grads, averaged.init(params), params)
    theirs, _ = plain.update(grads, plain.init(params), params)
    np.testing.assert_array_equal(ours["w"], theirs["w"])


def test_the_average_of_narrow_parameters_is_kept_in_float32():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    assert with_average(0.999, optax.sgd(0.1)).init(params).averaged_params["w"].dtype == "float32"


def test_without_a_decay_there_is_no_average():
    sgd = optax.sgd(0.1)
    assert with_average(0.0, sgd) is sgd
    state = TrainState({"w": 1.0}, {}, sgd.init({"w": jnp.ones(())}), None, None)  # type: ignore[arg-type]
    assert evaluated(state) is state


def test_a_skipped_window_leaves_the_average_alone():
    model = MODELS.get("SimpleMLP")(input_dim=4, num_classes=2, ema_decay=0.9)
    global_batch = {
        "inputs": np.full((1, 8, 4), np.nan, np.float32),
        "labels": np.zeros((1, 8), np.int32),
        "mask": np.ones((1, 8), np.float32),
    }
    program = select_strategy("cpu", {}).compile(model, make_spec(global_batch))
    state = program.init()
    before = jax.tree.map(np.asarray, program.export_state(state))
    after = program.export_state(train_step(program, state, global_batch)[0])
    named = [path for path in before if "averaged_params" in path]
    assert len(named) == 4
    for path in named:
        np.testing.assert_array_equal(before[path], after[path])


@pytest.fixture
def trained(train):
    return train("run", **AVERAGED)


def leaves(snapshot, averaged):
    marker = "/averaged_params/" if averaged else None
    return {
        path.partition(marker)[2] if marker else path.removeprefix("params/"): array
        for path, array in snapshot.arrays.items()
        if (marker in path if marker else path.startswith("params/"))
    }


def score(params):
    """Logits and mean loss on the evaluation split, computed plainly with these parameters."""
    split = DATA.get("digits")().eval
    batch = split.read(np.arange(len(split)))
    hidden = np.maximum(batch["inputs"] @ params["Dense_0/kernel"] + params["Dense_0/bias"], 0)
    logits = hidden @ params["Dense_1/kernel"] + params["Dense_1/bias"]
    chosen = np.take_along_axis(logits, batch["labels"][:, None], axis=1)[:, 0]
    return logits, (np.log(np.exp(logits).sum(axis=1)) - chosen).mean(), batch["inputs"]


def test_a_model_is_evaluated_and_predicts_with_the_average(trained):
    snapshot = read_snapshot(trained.run_dir / "checkpoints" / "snapshot_ep2")
    logits, loss, inputs = score(leaves(snapshot, averaged=True))
    raw, raw_loss, _ = score(leaves(snapshot, averaged=False))
    assert trained.summary["final"]["eval/loss"] == pytest.approx(loss, rel=1e-5)
    assert raw_loss != pytest.approx(loss, rel=1e-3)
    predicted = Predictor(checkpoint_path=trained.run_dir).predict(inputs)
    np.testing.assert_allclose(predicted, logits, atol=1e-4)
    assert abs(predicted - raw).max() > 1e-2


def test_a_run_with_an_average_is_resumed_exactly(trained, train):
    train("resumed", **AVERAGED, stop_at_step=20)
    resumed = train("resumed", **AVERAGED, resume="latest")
    one, other = (
        read_snapshot(run.run_dir / "checkpoints" / "snapshot_ep2").arrays
        for run in (trained, resumed)
    )
    for path in one:
        np.testing.assert_array_equal(one[path], other[path])
    assert trained.summary["final"] == resumed.summary["final"]


@pytest.mark.parametrize(
    "mesh", covering([{"data": 8}, {"data": 2, "fsdp": 2}], default=[{"data": 2, "fsdp": 2}])
)
def test_elastic_runs_keep_the_same_average_and_evaluate_with_it(train, mesh):
    elastic = {**AVERAGED, "reproducibility": "elastic", "epochs": 1}
    one = train("one", **{**elastic, "strategy": "mesh", "mesh": {"data": 1}})
    other = train("other", **{**elastic, "strategy": "mesh", "mesh": mesh})
    assert one.summary["final"] == other.summary["final"]
    first, second = (
        read_snapshot(run.run_dir / "checkpoints" / "snapshot_ep1").arrays for run in (one, other)
    )
    for path in first:
        np.testing.assert_array_equal(first[path], second[path])


def test_a_change_to_an_average_is_refused_where_the_snapshot_has_none(train):
    train("plain", stop_at_step=5)
    with pytest.raises(SnapshotError, match="expected a leaf 'opt_state/averaged_params/"):
        train("plain", ema_decay=0.9, resume="latest", accept_changes=True)


def test_the_state_is_found_in_whatever_the_optimizer_is_composed_of():
    optimizer = optax.chain(optax.clip(1.0), with_average(0.9, optax.adam(0.1)))
    params = {"w": jnp.ones(2)}
    opt_state = optimizer.init(params)
    assert any(isinstance(part, AverageState) for part in opt_state)
    state = TrainState({"w": jnp.zeros(2)}, {}, opt_state, None, None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(evaluated(state).params["w"], np.ones(2))
