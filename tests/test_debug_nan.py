"""`aetheria debug nan`: a dump is replayed, and the first layer, parameter and example named."""

import shutil
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from aetheria.models.cnn import SimpleCNN
from aetheria.models.mlp import SimpleMLP
from aetheria.models.transformer import Transformer
from flax import nnx
from support.long import covering, covering_rows
from support.runs import DIGITS

from aetheria import LossOutput, Model, NnxModel, weighted
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.layout.state import make_init
from aetheria.model.precision import Precision
from aetheria.tools.nan.origin import trace_origins
from aetheria.tools.nan.replay import Replay


def make_window(model, seed=0, num_micro=2, size=3):
    rng = np.random.default_rng(seed)
    lead = (num_micro, size)
    if isinstance(model, Transformer):
        tokens = rng.integers(0, model.vocab_size, (*lead, model.max_length), np.int32)
        columns = {"inputs": tokens, "labels": tokens}
    else:
        shape = (8, 8, 1) if isinstance(model, SimpleCNN) else (4,)
        columns = {
            "inputs": rng.normal(size=(*lead, *shape)).astype(np.float32),
            "labels": rng.integers(0, 3, lead, np.int32),
        }
    return columns | {"mask": np.ones(lead, np.float32)}


def make_replay(model, global_batch=None, change=lambda arrays: None, precision=False):
    """A replay of step 5; `change` may alter the state's leaves, by path."""
    global_batch = make_window(model) if global_batch is None else global_batch
    batch = {name: column[0] for name, column in global_batch.items()}
    init = jax.jit(make_init(model, model.optimizer(10), Precision.parse(precision)))
    state = init(jax.random.key(3), batch)
    leaves = named_leaves(state).items()
    arrays = {path: np.array(a) for path, a in leaves if not path.startswith("opt_state")}
    change(arrays)
    return Replay(
        model,
        mixed_precision=precision,
        carries_state=True,
        arrays=arrays,
        global_batch=global_batch,
        step=5,
    )


MLP = SimpleMLP(input_dim=4, hidden_dim=8, num_classes=3, dropout=0.2)
CNN = SimpleCNN(conv_dims=(4,), hidden_dim=8, num_classes=3, batch_norm=True)
LM = Transformer(vocab_size=16, num_layers=3, width=8, num_heads=2, max_length=8, dropout=0.1)
MODELS = {
    "mlp": MLP,
    "cnn": CNN,
    "lm": LM,
    "lm remat": Transformer(
        vocab_size=16, num_layers=2, width=8, num_heads=2, max_length=8, remat="full"
    ),
}


FINITE = {
    f"{name}-{precision}": (model, precision)
    for name, model in MODELS.items()
    for precision in (False, True)
}


@pytest.mark.parametrize(("model", "precision"), covering_rows(FINITE, default=["cnn-True"]))
def test_a_window_that_is_finite_has_no_culprit(model, precision):
    assert make_replay(model, precision=precision).find() is None


@pytest.mark.parametrize("model", covering({"mlp": MLP, "cnn": CNN}, default=["mlp"]))
def test_a_bad_number_in_the_data_is_found_with_its_column_layer_and_example(model):
    global_batch = make_window(model)
    global_batch["inputs"][1, 2, 0] = np.nan
    finding = make_replay(model, global_batch).find()
    assert (finding.micro_batch, np.isnan(finding.loss)) == (1, True)
    first = first_of(finding.origin)
    assert (first.argument, first.kind, first.backward) == ("batch/inputs", "nan", False)
    assert first.layer == ("Dense_0" if model is MLP else "Conv_0")
    assert first.source.startswith(f"models/{'mlp' if model is MLP else 'cnn'}.py:")
    # With batch statistics every example meets every other, but alone only the bad one fails.
    assert finding.row == 2
    assert finding.kind == "gradient" and finding.parameter.startswith("params/Dense_1/")


def first_of(origin):
    return origin if origin.because is None else first_of(origin.because)


@pytest.mark.parametrize("name", covering(["lm", "lm remat"], default=[]))
def test_a_bad_parameter_of_a_stacked_layer_is_named_with_its_turn(name):
    def change(arrays):
        arrays["params/blocks/mlp/in/kernel"][1, 3, 5] = np.nan

    finding = make_replay(MODELS[name], change=change).find()
    assert (finding.parameter, finding.kind) == ("params/blocks/mlp/in/kernel", "value")
    first = first_of(finding.origin)
    assert (first.argument, first.layer, first.turn) == (finding.parameter, "blocks/mlp/in", 1)
    assert (finding.micro_batch, finding.row) == (0, None), "no example is to blame"


def test_an_overflow_is_found_where_it_arises_not_where_it_becomes_a_nan():
    def change(arrays):
        arrays["params/blocks/mlp/in/kernel"][2, 0] = 3e38  # times an activation above 1

    finding = make_replay(LM, change=change).find()
    first = first_of(finding.origin)
    assert (first.operation, first.kind) == ("dot_general", "inf")
    assert (first.layer, first.turn) == ("blocks/mlp/in", 2)
    assert finding.origin is not first and finding.origin.kind == "nan"


def test_layers_that_overflow_harmlessly_are_passed_over():
    def change(arrays):
        # In the GELU of this layer the cube overflows, and the tanh of it is 1: no harm is done.
        arrays["params/blocks/mlp/in/kernel"][2] *= 1e38

    first = first_of(make_replay(LM, change=change).find().origin)
    assert (first.operation, first.kind, first.layer) == ("square", "inf", "norm")


@dataclass(frozen=True)
class Plain(Model):
    """Two named parts and a function of the parameter, written without a library of layers."""

    root: bool = False
    scale: float = 1.0

    def init(self, rng, example_batch):
        return {"inner": jnp.ones(4), "outer": jnp.zeros(())}, {}

    def loss(self, params, model_state, batch, rng, train):
        with jax.named_scope("inner"):
            hidden = batch["inputs"] @ params["inner"]
        with jax.named_scope("outer"):
            # The root of 0 is 0, its slope is infinite.
            value = jnp.sqrt(params["outer"]) if self.root else params["outer"]
            loss = (hidden + value) * self.scale
        masked = jnp.where(batch["mask"] > 0, loss, -jnp.inf)
        total, weight = weighted(jnp.where(masked > -jnp.inf, masked, 0.0), batch["mask"])
        return LossOutput(total, weight, {}, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(0.1)

    def predict(self, params, model_state, inputs):
        return inputs @ params["inner"]


def test_a_gradient_alone_that_is_not_finite_is_found_in_the_backward_pass():
    finding = make_replay(Plain(root=True)).find()
    assert np.isfinite(finding.loss) and not np.isfinite(finding.grad_norm)
    assert (finding.parameter, finding.kind) == ("params/outer", "gradient")
    first = first_of(finding.origin)
    assert (first.layer, first.backward) == ("outer", True)
    assert first.source.startswith("tests/test_debug_nan.py:")


def test_a_mask_of_infinities_is_no_culprit():
    global_batch = make_window(Plain())
    global_batch["mask"][0, 1] = 0
    assert make_replay(Plain(), global_batch).find() is None
    global_batch["inputs"][0, 2] = 3e38
    finding = make_replay(Plain(), global_batch).find()
    first = first_of(finding.origin)
    assert (first.operation, first.layer, finding.row) == ("dot_general", "inner", 2)


def test_padding_is_never_the_example():
    global_batch = make_window(MLP)
    global_batch["inputs"][0, 1:] = np.nan
    global_batch["mask"][0, 1] = 0
    assert make_replay(MLP, global_batch).find().row == 2


def test_micro_batches_that_overflow_together_alone_are_told_apart():
    global_batch = make_window(Plain())
    global_batch["inputs"][:] = [3, 1e-3, 1e-3, 1e-3]
    global_batch["inputs"][0, 0, 1] = 1e-2
    model = Plain(scale=3e37)  # 3 x 3 x 3e37 in each of two
    finding = make_replay(model, global_batch).find()
    assert (finding.micro_batch, finding.origin, finding.row) == (None, None, None)
    assert (finding.loss, finding.parameter) == (np.inf, "params/inner")


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


@dataclass(frozen=True)
class InNnx(NnxModel):
    def network(self, rngs):
        return Net(rngs)

    def score(self, outputs, batch):
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
        return weighted(loss, batch["mask"]), {}

    def optimizer(self, total_steps):
        return optax.sgd(0.1)


@pytest.mark.parametrize("precision", covering([False, True], default=[False]))
def test_an_nnx_network_is_named_by_its_parameters(precision):
    global_batch = make_window(InNnx())
    global_batch["inputs"][0, 1, 0] = np.inf
    first = first_of(make_replay(InNnx(), global_batch, precision=precision).find().origin)
    assert (first.argument, first.layer) == ("batch/inputs", "first")
    assert first.source.startswith("tests/test_debug_nan.py:")


@pytest.mark.parametrize("size", [1, 5])
def test_a_value_is_the_one_that_the_whole_computation_gives(size):
    """Branches, loops in both directions, and functions with derivatives of their own."""

    def function(x):
        def body(carry, column):
            carry = jax.lax.cond(carry.sum() > 0, jnp.sin, jnp.cos, carry) * column
            return carry, carry.sum()

        _, forward = jax.lax.scan(body, jnp.ones(2), x)
        last, backward = jax.lax.scan(body, jnp.ones(2), x, reverse=True)
        ended = jax.lax.while_loop(lambda v: v.sum() < 5, lambda v: v + 1, last)
        multiply = lambda a, b: a * b
        products = jax.lax.reduce_window(x, 1.0, multiply, (1, 2), (1, 2), "VALID")
        remat = jax.grad(lambda v: jax.checkpoint(jnp.sin)(v).sum())(x)
        return jax.nn.softmax(forward), jax.nn.relu(backward), ended, products, remat

    x = jnp.linspace(0.5, 1.5, 2 * size).reshape(size, 2)
    outputs, marks = trace_origins(function, {"x": x})
    assert not marks
    for mine, right in zip(outputs, function(x), strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-6)


@pytest.fixture(scope="module")
def dump(train_once):
    run = train_once(**POISONED)
    return run.run_dir / "dumps" / "nonfinite_step13"


POISONED = {
    "data_name": "support.nonfinite_data:poisoned",
    "grad_accumulation_steps": 4,
    "epochs": 1,
}


def test_the_command_names_layer_parameter_and_example(dump, cli):
    done = cli("debug", "nan", str(dump))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "batch      step 13, 4 micro-batch(es) of 16 examples",
        "where      micro-batch 2 of 4: loss (summed) nan, gradient norm nan",
        "first      a NaN in the data, column inputs",
        "layer      Dense_0, forward pass, models/mlp.py:23",
        "parameter  params/Dense_1/bias: its gradient is the first that is not finite",
        "example    row 5 (from 0) of the micro-batch: number 882 of the training split",
    ]


def test_the_command_says_when_all_is_finite_here(train, command):
    run = train(**{**POISONED, "data_name": "support.nonfinite_data:glitching"})
    done = command("debug", "nan", run.run_dir / "dumps" / "nonfinite_step13")
    assert done.returncode == 1
    assert "check the machine" in done.stdout


def test_what_is_no_dump_is_said_in_one_line(dump, command, tmp_path):
    snapshot = dump.parent.parent / "checkpoints" / "snapshot_ep1"
    for path, got in ((snapshot, f"{snapshot}, a snapshot"), (tmp_path / "no", str(tmp_path))):
        done = command("debug", "nan", path)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("dump: expected") and got in line


def test_a_damaged_dump_is_not_believed(dump, command, tmp_path):
    dump = shutil.copytree(dump, tmp_path / "damaged")
    files = [path for path in (dump / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    done = command("debug", "nan", dump)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "expected an undamaged snapshot" in line


def test_a_dump_holds_the_window_and_the_state_it_met(dump, train):
    from aetheria.snapshots import read_snapshot
    from aetheria.tools.nan.dump import read_dump

    held = read_dump(dump)
    global_batch = held.global_batch
    assert np.argwhere(np.isnan(global_batch["inputs"])).tolist() == [[1, 5, 7]]
    before = train("before", **POISONED, stop_at_step=12)
    arrays = read_snapshot(before.run_dir / "checkpoints" / "snapshot_step12").arrays
    kept = {path for path in arrays if not path.startswith("opt_state")}
    assert set(held.arrays) == kept
    assert all(np.array_equal(arrays[p], held.arrays[p]) for p in kept - {"counters"})


def test_only_the_first_few_windows_of_a_run_are_kept(train):
    bad = {"steps": [3, 6, 9, 12, 15]}
    run = train(data_name="support.nonfinite_data:poisoned", data_params={**bad}, epochs=1, **SMALL)
    kept = sorted(path.name for path in (run.run_dir / "dumps").iterdir())
    assert kept == ["nonfinite_step3", "nonfinite_step6", "nonfinite_step9"]
    assert run.exit_code == 0


SMALL = {"grad_accumulation_steps": 4, "log_every_steps": 1}
assert DIGITS["batch_size"] == 64
