"""Loops of one's own: the bits of the trainer, the guard, exact resume, and what is refused."""

import itertools
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from aetheria.models.mlp import SimpleMLP
from support.long import covering
from support.runs import DIGITS, REPOSITORY

from aetheria import loops
from aetheria.errors import AetheriaError, SnapshotError
from aetheria.inference import Predictor

PAGE = (REPOSITORY / "docs" / "how-to" / "own_loop.md").read_text()
PARAMS = {"input_dim": 64, "hidden_dim": 16, "num_classes": 10, "dropout": 0.2}
MODEL = SimpleMLP(**PARAMS, learning_rate=DIGITS["learning_rate"])
CONFIG = {
    "model_params": PARAMS,
    "epochs": 1,
    "max_steps": 12,
}


def shown(file: str) -> dict:
    """The names that a file shown on the page defines."""
    code = re.search(rf"^```python {file}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert code is not None
    names = {"__name__": "shown"}
    exec(compile(code[1], file, "exec"), names)
    return names


def bits(tree: object) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    "policy",
    covering(
        {
            "accumulation": {"mixed_precision": False, "grad_accumulation_steps": 4},
            "mixed precision": {"mixed_precision": True, "grad_accumulation_steps": 1},
        },
        default=["accumulation"],
    ),
)
def test_the_step_of_a_model_has_the_bits_of_the_trainer(train, policy):
    finished = train(**CONFIG, **policy)
    data = loops.load_data("digits")
    batches = loops.Batches(data.train, batch_size=DIGITS["batch_size"])
    init = loops.make_init(MODEL, 12, mixed_precision=policy["mixed_precision"])
    step = loops.jit(loops.make_train_step(MODEL, 12, **policy), donate_argnums=0)
    state = init(0, batches.example())
    for _, batch in zip(range(12), batches.train(), strict=False):
        state, report = step(state, batch.columns)
    trained = loops.read_arrays(finished.run_dir / "checkpoints" / "snapshot_step12")
    own = {f"params/{name}": leaf for name, leaf in _paths(state.params).items()}
    assert {name: trained[name].tobytes() for name in own} == {
        name: np.asarray(leaf).tobytes() for name, leaf in own.items()
    }
    assert set(report.metrics) == {"loss", "grad_norm", "accuracy"}
    assert np.isfinite([float(value) for value in report.metrics.values()]).all()


def _paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_evaluation_is_exact_over_a_padded_tail():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(50, 64)).astype("f4"), rng.integers(0, 10, 50)
    batches = loops.Batches((inputs, labels), batch_size=16)
    state = loops.make_init(MODEL, 1)(0, batches.example())
    eval_step = loops.jit(loops.make_eval_step(MODEL))
    found = loops.mean_metrics(eval_step(state, batch) for batch in batches.once())
    right = MODEL.predict(state.params, state.model_state, inputs).argmax(-1) == labels
    assert found["accuracy"] == pytest.approx(right.mean())


def test_the_loop_of_the_page_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch):
    main = shown("gan.py")["main"]
    main(40, tmp_path / "whole")
    main(20, tmp_path / "parts")
    shutil.copytree(tmp_path / "parts", tmp_path / "elsewhere")
    main(40, tmp_path / "parts")
    train = loops.Batches.train
    monkeypatch.setattr(loops.Batches, "train", lambda batches, seen: train(batches, 0))
    main(40, tmp_path / "elsewhere")  # the control: another position in the data
    whole, parts, elsewhere = (
        loops.read_arrays(tmp_path / run / "snapshot_step40")
        for run in ("whole", "parts", "elsewhere")
    )
    assert bits(whole) == bits(parts)
    assert bits(whole) != bits(elsewhere)
    assert {"generator/params/Dense_0/kernel", "critic/counters"} <= whole.keys()
    assert capsys.readouterr().out.count("generator") == 5


def test_turns_of_a_group_are_the_optimizers():
    """The first layer moves at every other step, all others at each."""
    model = shown("models/two_groups.py")["TwoGroups"](input_dim=64, num_classes=10)
    batches = loops.Batches(loops.load_data("digits").train, batch_size=32)
    state = loops.make_init(model, 8)(0, batches.example())
    step = loops.jit(loops.make_train_step(model, 8))
    moved = {"Dense_0": [], "Dense_1": []}
    for _, batch in zip(range(4), batches.train(), strict=False):
        before, (state, _) = state, step(state, batch.columns)
        for layer, turns in moved.items():
            turns.append(bits(before.params[layer]) != bits(state.params[layer]))
    assert moved["Dense_1"] == [True] * 4
    assert moved["Dense_0"] in ([True, False] * 2, [False, True] * 2)


def test_what_is_not_finite_changes_nothing_and_stops_in_the_end():
    params = {"w": jnp.ones(3)}
    optimizer = optax.adam(0.1)
    update = loops.jit(loops.make_update(optimizer, max_consecutive_skips=3))
    state = loops.make_state(params, optimizer)
    good, bad = {"w": jnp.ones(3)}, {"w": jnp.array([1, jnp.nan, 1])}
    after, report = update(state, bad, jnp.float32(1))
    assert report.skipped and not report.stopped
    assert bits((after.params, after.opt_state)) == bits((state.params, state.opt_state))
    after, report = update(after, good, jnp.float32(1))
    assert not report.skipped and bits(after.params) != bits(state.params)
    assert float(report.metrics["grad_norm"]) == pytest.approx(3**0.5)
    for _ in range(3):
        after, report = update(after, good, jnp.float32(jnp.inf))
    assert report.skipped and report.stopped
    last, report = update(after, good, jnp.float32(1))
    assert report.stopped and bits(last.params) == bits(after.params)


def test_any_tree_comes_back_with_what_was_said_of_it(tmp_path):
    tree = {"w": jnp.arange(3.0), "key": jax.random.key(3), "empty": jnp.zeros((0, 2)), "n": 7}
    tree["wide"] = np.float64([1 / 3])  # JAX would keep 32 bits of it
    with loops.Snapshots(tmp_path, keep_last=1, monitor="eval/loss") as snapshots:
        assert snapshots.restore(like=tree) is None
        for step, loss in ((1, 0.5), (2, 0.1), (3, 0.7)):
            facts = {"note": "é", "list": [1, None]}
            snapshots.save(
                step, tree, examples_seen=step * 10, metrics={"eval/loss": loss}, facts=facts
            )
        found = snapshots.restore(like=tree)
    assert found is not None
    assert (found.step, found.examples_seen, found.facts) == (3, 30, facts)
    assert found.metrics == {"eval/loss": 0.7} and found.tree["n"] == 7
    assert found.tree["wide"] == tree["wide"] and found.tree["empty"].shape == (0, 2)
    assert jax.random.normal(found.tree["key"]) == jax.random.normal(tree["key"])
    # The newest, and the best.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot_step2", "snapshot_step3"]


def test_leaves_return_to_the_devices_they_are_expected_on(tmp_path):
    mesh = jax.make_mesh((8,), ("data",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    tree = {"w": jax.device_put(jnp.arange(16.0), place)}
    with loops.Snapshots(tmp_path) as snapshots:
        snapshots.save(1, tree)
        found = snapshots.restore(like=tree)
    assert found is not None and found.tree["w"].sharding == place
    assert bits(found.tree) == bits(tree)


def test_a_damaged_snapshot_is_set_aside_and_the_one_before_is_taken(tmp_path):
    with loops.Snapshots(tmp_path) as snapshots:
        for step in (1, 2):
            snapshots.save(step, {"w": jnp.full(1000, step)})
    largest = max((tmp_path / "snapshot_step2").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    found = loops.Snapshots(tmp_path).restore(like={"w": jnp.zeros(1000, int)})
    assert found is not None and found.step == 1
    assert (tmp_path / "quarantine" / "snapshot_step2").is_dir()


def test_a_save_that_fails_warns_and_the_loop_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    snapshots = loops.Snapshots(tmp_path / "file")
    snapshots.save(1, {"w": jnp.ones(2)})
    with pytest.warns(UserWarning, match=r"snapshot_step1: not saved: "):
        snapshots.wait()


MISTAKES = [
    (lambda: loops.Batches(loops.load_data("digits"), batch_size=4), "Batches: expected one set"),
    (lambda: loops.Batches(([1.0], [2.0]), batch_size=0), "Batches, batch_size: expected a whole"),
    (lambda: loops.Batches(3, batch_size=4), "data: expected a table"),
    (lambda: loops.Batches(([1.0, 2.0], [1.0]), batch_size=4), "data"),
    (lambda: loops.load_data("digit"), "use 'digits'"),
    (lambda: loops.load_data("digits", size=3), "data_params"),
    (lambda: loops.Snapshots("x").save(1, {"a": "b"}), "leaf 'a': expected an array or a number"),
    (lambda: loops.mean_metrics([]), "mean_metrics: expected the sums"),
]


@pytest.mark.parametrize(("mistake", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_is_one_line(mistake, says):
    with pytest.raises(AetheriaError, match=re.escape(says)) as caught:
        mistake()
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_fit_its_batch_is_one_line():
    rng = np.random.default_rng(0)
    data = {"inputs": rng.normal(size=(9, 64)), "labels": rng.integers(0, 10, 9)}
    batches = loops.Batches(data, batch_size=9)
    step = loops.make_train_step(MODEL, 4, grad_accumulation_steps=2)
    state = loops.make_init(MODEL, 4)(0, batches.example())
    with pytest.raises(AetheriaError, match="grad_accumulation_steps: expected a divisor of the"):
        step(state, next(batches.train()).columns)
    with pytest.raises(AetheriaError, match="labels"):
        loops.make_init(MODEL, 4)(0, {"inputs": data["inputs"], "mask": np.ones(9)})


def test_a_snapshot_of_one_kind_of_loop_is_none_of_the_other(tmp_path, train, command):
    with loops.Snapshots(tmp_path / "own") as snapshots:
        snapshots.save(1, {"w": jnp.ones(2)})
        with pytest.raises(SnapshotError, match="expected a leaf 'v', got none"):
            snapshots.restore(like={"v": jnp.ones(2)})
    finished = train(max_steps=1)
    with pytest.raises(SnapshotError, match="resume it with that command"):
        loops.Snapshots(finished.run_dir / "checkpoints").restore(like={"w": jnp.ones(2)})
    own = tmp_path / "own" / "snapshot_step1"
    with pytest.raises(AetheriaError, match="model") as caught:
        Predictor(checkpoint_path=own)
    assert "\n" not in str(caught.value)
    said = command("train", "--resume", str(own), str(tmp_path / "run.yaml"))
    assert said.returncode == 2 and "Traceback" not in said.stderr
    said = command("snapshots", "verify", str(tmp_path / "own"))
    assert said.returncode == 0 and "snapshot_step1" in said.stdout


def test_batches_begin_anywhere_and_are_the_same_as_those_of_a_longer_loop():
    numbers = np.arange(10)
    batches = loops.Batches({"inputs": numbers[:, None]}, batch_size=4, seed=5)
    first = [*itertools.islice(batches.train(), 8)]
    assert [batch.examples_seen for batch in first] == [4, 8, 10, 14, 18, 20, 24, 28]
    later = [*itertools.islice(batches.train(first[4].examples_seen), 3)]
    assert [bits(batch.columns) for batch in later] == [bits(b.columns) for b in first[5:]]
    epoch = np.concatenate([b.columns["inputs"][b.columns["mask"] > 0] for b in first[:3]])
    assert sorted(epoch.ravel()) == [*numbers] and len(batches) == 10
