"""Precision policies, dynamic loss scaling, and which dtypes the real train step has inside."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.long import covering, covering_rows, only_long
from support.programs import make_spec, train_step
from support.runs import DIGITS
from support.tiny_mlp import (
    MODEL,
    MOMENTUM,
    Scalar,
    equal,
    equations,
    learned,
    make_window,
    valid,
)

from aetheria.config import make_config
from aetheria.config.precision_policy import parse_policy
from aetheria.errors import ConfigError, SnapshotError
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.guard import unfreeze
from aetheria.hardware.jax.rewriting import rewrite
from aetheria.hardware.jax.step import make_train_step
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.jax.wide_sums import WIDE_SUMS
from aetheria.hardware.layout.counters import CONSECUTIVE
from aetheria.hardware.layout.loss_scale import GOOD_STEPS, SCALE
from aetheria.hardware.layout.state import TrainState, make_init
from aetheria.inference import Predictor
from aetheria.model.precision import Precision
from aetheria.plugins import MODELS
from aetheria.snapshots import read_snapshot

HALF = Precision.parse("compute=float16")

# Policies


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (False, "params=float32,compute=float32,output=float32"),
        (True, "params=float32,compute=bfloat16,output=float32"),
        ("compute=f16", "params=float32,compute=float16,output=float32"),
        ("output=bf16, params=bfloat16", "params=bfloat16,compute=float32,output=bfloat16"),
        ("params=f32,compute=bf16,output=f16", "params=float32,compute=bfloat16,output=float16"),
    ],
)
def test_a_policy_is_read_and_printed(value, text):
    assert str(Precision.parse(value)) == text
    assert Precision.parse(text) == Precision.parse(value)
    assert make_config({"model_name": "a", "mixed_precision": value}, "x").mixed_precision == value


DTYPES = "one of float32, bfloat16, float16, float64"
PAIRS = "expected true, false, a dtype such as bf16, or part=dtype pairs"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((text, f"{PAIRS}, got {text!r}; use params=") for text in ("", "bf61", "compute=f16,")),
        (
            "compte=f16",
            "expected one of params, compute, output, got 'compte'; did you mean 'compute'?",
        ),
        ("x=f16", "expected one of params, compute, output, got 'x'; use one of these"),
        (
            "compute=flot16",
            f"expected compute to be {DTYPES}, got 'flot16'; did you mean 'float16'?",
        ),
        ("params=int8", f"expected params to be {DTYPES}, got 'int8'; use one of these"),
        ("output=", f"expected output to be {DTYPES}, got ''; use one of these"),
        (
            "compute=f16,compute=bf16",
            "expected compute once, got 'compute=f16,compute=bf16'; keep one of the two",
        ),
    ],
)
def test_a_wrong_policy_is_one_line_among_the_other_errors_of_the_config(text, problem):
    with pytest.raises(ConfigError) as caught:
        make_config({"model_name": "a", "mixed_precision": text, "epochs": 0}, "file")
    first, second = caught.value.problems
    assert first == "file: epochs: expected 1 or more, got 0"
    assert second.startswith(f"file: mixed_precision: {problem}")
    with pytest.raises(ConfigError) as caught:
        Precision.parse(text)
    assert str(caught.value).startswith(f"mixed_precision: {problem}")


def test_a_wrong_policy_on_the_command_line_is_exit_code_2(command, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DIGITS))
    options = ("train", "config.json", "--set")
    for text in ("mixed_precision=compute=f8", "mixed_precision=params=float64"):
        done = command(*options, text)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and "mixed_precision: expected" in done.stderr


def test_float64_is_taken_where_jax_has_it():
    with pytest.raises(ConfigError, match="expected output to be of 32 bits or fewer, got float64"):
        Precision.parse("output=float64")
    with jax.enable_x64(True):
        policy = Precision.parse("params=f64,compute=f64,output=f64")
        assert str(policy) == "params=float64,compute=float64,output=float64"
        state = make_state(MOMENTUM, policy)
        assert dtypes(state.params, state.opt_state) == {"float64"}
        stepped, report = jitted_step(MOMENTUM, policy)(state, WINDOW)
        assert dtypes(stepped.params, stepped.opt_state) == {"float64"}
        assert np.isfinite(report.values).all() and not equal(stepped.params, state.params)


# What the step does with them

WINDOW = make_window(valid(8, 8))
LARGE = {
    **WINDOW,
    "labels": WINDOW["labels"] * 100,
}  # gradients overflow at first, the loss does not
NOT_A_NUMBER = {**WINDOW, "inputs": WINDOW["inputs"] * np.float32(np.nan)}


def dtypes(*trees):
    leaves = jax.tree.leaves(trees)
    return {str(leaf.dtype) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


def make_state(model, precision=HALF, loss_scale=None):
    init = make_init(model, model.optimizer(1), precision)
    example = {name: column[0] for name, column in WINDOW.items()}
    state = jax.jit(init)(jax.random.key(0), example)
    return state if loss_scale is None else state._replace(loss_scale=jnp.float32(loss_scale))


@functools.cache
def jitted_step(model, precision=HALF, limit=3, growth_period=2000):
    optimizer = model.optimizer(1)
    step = make_train_step(model, optimizer, precision, limit, growth_period=growth_period)
    return jax.jit(step)


def advance(step, state, *global_batches):
    for global_batch in global_batches:
        state, _ = step(state, global_batch)
    return state


@pytest.mark.parametrize("params", covering(["bfloat16", "float16"], default=["float16"]))
def test_parameters_are_kept_in_the_dtype_of_the_policy(params):
    policy = Precision.parse(f"params={params},compute=bfloat16")
    state = make_state(MOMENTUM, policy)
    assert dtypes(state.params) == {params}
    # The squares of gradients need the range that float16 lacks.
    assert dtypes(state.opt_state) == {"bfloat16" if params == "bfloat16" else "float32"}
    stepped, report = jitted_step(MOMENTUM, policy)(state, WINDOW)
    assert dtypes(stepped.params) == {params}
    assert dtypes(stepped.opt_state) == dtypes(state.opt_state)
    assert dtypes(report) == {"float32"}
    assert not equal(stepped.params, state.params)


def test_gradients_of_narrow_parameters_accumulate_in_float32():
    """1,024 ones, one a micro-batch: in bfloat16 the sum would end at 256."""
    global_batch = {name: np.ones((1024, 1), np.float32) for name in ("inputs", "mask")}
    model, policy = Scalar(lambda w, x: w * x), Precision.parse("params=bf16,compute=bf16")
    state = make_state(model, policy)
    _, report = jitted_step(model, policy)(state, global_batch)
    assert report.values.tolist() == [[1024, 1024], [1, 1]]


def test_only_float16_scales_the_loss():
    for text in ("compute=f32", "compute=bf16", "params=f16,compute=bf16"):
        assert make_state(MODEL, Precision.parse(text)).loss_scale == ()
    assert make_state(MODEL, HALF).loss_scale.tolist() == [2**15, 0]


def test_an_overflow_halves_the_scale_and_changes_no_bit_of_what_was_learned():
    state = make_state(MOMENTUM)
    stepped, report = jitted_step(MOMENTUM)(state, LARGE)
    assert report.values[:2].tolist() == [[0, 0]] * 2, "it is no step of the interval"
    assert equal(learned(stepped), learned(state))
    assert stepped.loss_scale.tolist() == [2**14, 0]
    assert stepped.counters.tolist() == [
        1,
        1,
        0,
        1,
        0,
        0,
    ]
    fits = jitted_step(MOMENTUM)(make_state(MOMENTUM, loss_scale=[1, 0]), LARGE)[0]
    assert not equal(fits.params, state.params), "the control: with a small scale it is a step"


def test_the_scale_falls_until_the_step_is_taken_and_no_limit_stops_it():
    step, state, scales = jitted_step(MOMENTUM, limit=1), make_state(MOMENTUM), []
    while not state.loss_scale[GOOD_STEPS]:
        assert len(scales) < 16
        scales.append(float(state.loss_scale[SCALE]))
        state = advance(step, state, LARGE)
    assert len(scales) > 2 and scales == [2.0**15 / 2**i for i in range(len(scales))]
    assert state.counters.tolist() == [len(scales), len(scales) - 1, 0, len(scales) - 1, 0, 0]


STEEP = Scalar(lambda w, x: jnp.sqrt(w) * x, start=0.0)  # loss 0, its gradient infinite


def test_at_the_smallest_scale_an_overflow_counts_towards_the_limit_and_then_freezes():
    step, state = jitted_step(STEEP, limit=2), make_state(STEEP, loss_scale=[4, 1])
    state = state._replace(counters=unfreeze(state.counters, 4))
    seen = []
    for _ in range(6):
        state = advance(step, state, WINDOW)
        seen.append((float(state.loss_scale[SCALE]), int(state.counters[CONSECUTIVE])))
    assert seen == [(2, 0), (1, 0), (1, 1), (1, 2), (1, 2), (1, 2)]
    assert state.counters.tolist() == [4, 4, 2, 4, 0, 4]


def test_a_frozen_state_keeps_its_scale():
    state = make_state(MOMENTUM, loss_scale=[2**15, 5])
    frozen = state._replace(counters=jnp.array([7, 3, 3, 7, 0, 9], jnp.int32))
    for global_batch in (WINDOW, LARGE):
        assert equal(advance(jitted_step(MOMENTUM), frozen, global_batch), frozen)
        assert not equal(advance(jitted_step(MOMENTUM), state, global_batch), state), "the control"


def test_a_loss_that_is_not_finite_is_no_fault_of_the_scale():
    state = make_state(MOMENTUM, loss_scale=[2**10, 5])
    skipped = advance(jitted_step(MOMENTUM), state, NOT_A_NUMBER)
    assert equal(learned(skipped), learned(state))
    assert skipped.loss_scale.tolist() == [2**10, 5]
    assert skipped.counters.tolist() == [1, 1, 1, 1, 1, 0]


def test_the_scale_doubles_after_a_number_of_good_steps_in_a_row():
    step, state = jitted_step(MOMENTUM, growth_period=3), make_state(MOMENTUM, loss_scale=[8, 0])
    empty = {**WINDOW, "mask": np.zeros_like(WINDOW["mask"])}
    seen = []
    for global_batch in (WINDOW, empty, WINDOW, WINDOW, WINDOW):
        state = advance(step, state, global_batch)
        seen.append(state.loss_scale.tolist())
    assert seen == [[8, 1], [8, 1], [8, 2], [16, 0], [16, 1]]
    state = advance(step, state._replace(loss_scale=jnp.float32([2**15, 2])), LARGE)
    assert state.loss_scale.tolist() == [2**14, 0], "an overflow begins the row anew"


@pytest.mark.parametrize("scale", [2.0**24, 2.0**20])
def test_the_scale_grows_to_a_limit(scale):
    tiny = {**WINDOW, "mask": WINDOW["mask"] * np.float32(1e-6)}
    state = make_state(MODEL, loss_scale=[scale, 0])
    grown = advance(jitted_step(MODEL, growth_period=1), state, tiny)
    assert grown.counters.tolist() == [1, 0, 0, 0, 0, 0]
    assert grown.loss_scale.tolist() == [min(2 * scale, 2.0**24), 0]


def test_the_default_period_is_2000_steps():
    state = make_state(MODEL, loss_scale=[8, 1998])
    seen = []
    for _ in range(3):
        state = advance(jitted_step(MODEL), state, WINDOW)
        seen.append(state.loss_scale.tolist())
    assert seen == [[8, 1999], [16, 0], [16, 1]]


def grad_norm(precision, loss_scale, global_batch):
    state = make_state(MODEL, precision, loss_scale)
    return float(jitted_step(MODEL, precision)(state, global_batch)[1].values[1, 0])


def test_scaling_saves_small_gradients_and_is_taken_out_again():
    tiny = {**WINDOW, "mask": WINDOW["mask"] * np.float32(2**-30)}  # float16 ends at 2**-24
    exact = grad_norm(Precision(), None, tiny)
    scaled = grad_norm(HALF, [2**15, 0], tiny)
    assert abs(scaled / exact - 1) < 1e-2
    assert grad_norm(HALF, [1, 0], tiny) < 0.1 * exact, "the control: without it they vanish"


@pytest.mark.parametrize("scale", [2**2, 2**5])
def test_a_power_of_two_leaves_no_trace_in_the_step(scale):
    first, other = (make_state(MOMENTUM, loss_scale=[s, 0]) for s in (1, scale))
    step = jitted_step(MOMENTUM)
    assert equal(learned(advance(step, first, WINDOW)), learned(advance(step, other, WINDOW)))


def test_micro_batches_are_scaled_alike():
    whole = {name: column.reshape(1, -1, *column.shape[2:]) for name, column in WINDOW.items()}
    norms = [grad_norm(HALF, [2**8, 0], global_batch) for global_batch in (WINDOW, whole)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=2e-3)


# The programs

SimpleMLP = MODELS.get("SimpleMLP")
DIGIT = SimpleMLP(input_dim=64, hidden_dim=16, num_classes=10, dropout=0.1)


def make_windows(num_global_batches, num_micro=8):
    rng = np.random.default_rng(0)
    shape = (num_global_batches, num_micro, 8)
    inputs = rng.normal(size=(*shape, 64)).astype(np.float32)
    labels = inputs[..., :10].argmax(-1).astype(np.int32)
    return {"inputs": inputs, "labels": labels, "mask": np.ones(shape, np.float32)}


WINDOWS = make_windows(12)
PROGRAMS = {
    "cpu": ("cpu", {}, False),
    "mesh8": ("mesh", {"data": 8}, False),
    "elastic1": ("mesh", {"data": 1}, True),
    "elastic2": ("mesh", {"data": 2}, True),
    "elastic8": ("mesh", {"data": 8}, True),
}


def compile_program(name, mixed_precision="compute=float16"):
    spec = make_spec(
        {name: column[0] for name, column in WINDOWS.items()},
        total_steps=12,
        mixed_precision=mixed_precision,
        max_consecutive_skips=1,
    )
    strategy, mesh, elastic = PROGRAMS[name]
    return select_strategy(strategy, mesh, elastic=elastic).compile(DIGIT, spec)


make_program = functools.cache(compile_program)


def take(program, state, start=0, stop=12):
    """Steps on some of the windows; what each reported."""
    reports = []
    for index in range(start, stop):
        global_batch = {name: column[index] for name, column in WINDOWS.items()}
        state, report = train_step(program, state, global_batch)
        reports.append(program.fetch(report))
    return state, reports


def exported(program, state):
    return {path: np.array(array) for path, array in program.export_state(state).items()}


def with_scale(program, scale):
    """The state of step 0, begun with a scale."""
    arrays = exported(program, program.init())
    return program.import_state({**arrays, "loss_scale": np.float32([scale, 0])})


TOO_LARGE = 2.0**20  # overflows


@pytest.mark.parametrize("name", covering([*PROGRAMS], default=["elastic2"]))
def test_every_program_lowers_the_scale_skips_and_reports_it(name):
    program = make_program(name)
    state, reports = take(program, with_scale(program, TOO_LARGE))
    scales = [report.metrics["loss_scale"] for report in reports]
    assert list(reports[0].metrics) == ["loss", "grad_norm", "loss_scale", "accuracy"]
    num_skipped = reports[-1].guard.num_skipped
    assert 0 < num_skipped < 12
    assert scales[0] == TOO_LARGE and scales[-1] == TOO_LARGE / 2**num_skipped
    assert all(report.guard.consecutive_skips == 0 for report in reports)
    assert exported(program, state)["loss_scale"].tolist() == [scales[-1], 12 - num_skipped]


def test_only_float16_reports_a_scale_and_keeps_one():
    for policy in (False, True):
        program = make_program("cpu", policy)
        state, reports = take(program, program.init(), stop=1)
        assert list(reports[0].metrics) == ["loss", "grad_norm", "accuracy"]
        assert "loss_scale" not in exported(program, state)


@pytest.mark.uncached
@pytest.mark.parametrize("name", covering(["elastic2", "elastic8"], default=["elastic2"]))
def test_elastic_float16_gives_the_same_bits_on_any_number_of_devices(name):
    runs = []
    for each in ("elastic1", name):
        program = compile_program(each)
        state, reports = take(program, with_scale(program, TOO_LARGE))
        runs.append((exported(program, state), [report.metrics for report in reports]))
    assert equal(runs[0][0], runs[1][0])
    assert repr(runs[0][1]) == repr(runs[1][1])  # as text, for nan is not nan
    other, _ = take(program, with_scale(program, 2.0**2))
    assert not equal(
        exported(program, other)["params/Dense_0/kernel"], runs[0][0]["params/Dense_0/kernel"]
    ), "the control"


@pytest.mark.parametrize("name", ["cpu", "elastic2"])
def test_a_resumed_run_keeps_the_scale(name):
    program = make_program(name)
    state, _ = take(program, with_scale(program, TOO_LARGE), stop=4)
    saved = exported(program, state)
    whole = exported(program, take(program, state, 4)[0])
    resumed = exported(program, take(program, program.import_state(saved), 4)[0])
    assert equal(resumed, whole)
    # The controls: a scale that is begun anew is another run, and one that is lost is refused.
    anew = {**saved, "loss_scale": np.float32([TOO_LARGE, 0])}
    other = exported(program, take(program, program.import_state(anew), 4)[0])
    assert not equal(other["params/Dense_0/kernel"], whole["params/Dense_0/kernel"])
    with pytest.raises(SnapshotError, match="expected a leaf 'loss_scale', got none"):
        program.import_state({p: a for p, a in saved.items() if p != "loss_scale"})


# Whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@only_long
def test_float16_and_bfloat16_reach_about_the_accuracy_of_float32(train):
    policies = {
        "f32": False,
        "bf16": True,
        "f16": "compute=f16",
        "all16": "params=bf16,compute=f16",
    }
    done = {
        name: train(name, epochs=8, learning_rate=0.02, mixed_precision=policy)
        for name, policy in policies.items()
    }
    accuracy = {name: run.summary["final"]["eval/accuracy"] for name, run in done.items()}
    assert accuracy["f32"] > 0.9
    assert all(abs(value - accuracy["f32"]) < 0.03 for value in accuracy.values()), accuracy
    digests = {run.summary["params_sha256"] for run in done.values()}
    assert len(digests) == len(policies), "the control: the policies are not the same run"
    assert "loss_scale" in done["f16"].metrics[0] and "loss_scale" not in done["bf16"].metrics[0]


def test_a_float16_run_stopped_and_resumed_equals_an_uninterrupted_one(train):
    common = {"mixed_precision": "compute=float16", "grad_accumulation_steps": 2}
    whole = train("whole", **common)
    assert train("resumed", **common, stop_at_step=3).exit_code == 75
    arrays = read_snapshot(next((whole.run_dir.parent / "resumed/checkpoints").iterdir())).arrays
    assert arrays["loss_scale"][SCALE] < 2**15  # it has fallen by then
    resumed = train("resumed", **common, resume="latest")
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]


@pytest.mark.parametrize(
    ("before", "after"),
    covering_rows(
        [(False, "compute=f16"), ("compute=f16", True), (True, "params=bf16,compute=bf16")],
        default=[(False, "compute=f16")],
    ),
)
def test_another_policy_goes_on_from_a_snapshot_once_it_is_accepted(train, before, after):
    train("run", mixed_precision=before, stop_at_step=30)
    change = {"mixed_precision": after, "resume": "latest"}
    with pytest.raises(SnapshotError, match="expected mixed_precision as in the snapshot"):
        train("run", **change)
    done = train("run", **change, accept_changes=True)
    assert done.exit_code == 0
    arrays = read_snapshot(done.run_dir / "checkpoints" / "snapshot_ep2").arrays
    assert ("loss_scale" in arrays) == (after == "compute=f16")
    kept = parse_policy(after)["params"]
    assert str(arrays["params/Dense_0/kernel"].dtype) == kept


def test_predictions_come_in_the_output_dtype_from_whatever_parameters_are_kept_in(train):
    policy = "params=bf16,compute=bf16,output=bf16"
    run = train("run", epochs=1, mixed_precision=policy)
    path = run.run_dir / "checkpoints" / "snapshot_ep1"
    images = np.random.default_rng(0).uniform(0, 1, (5, 64)).astype(np.float32)
    as_trained = Predictor.from_snapshot(path).predict(images)
    assert as_trained.dtype == jnp.bfloat16
    wide = Predictor.from_snapshot(
        path, mixed_precision=policy.replace("output=bf16", "output=f32")
    )
    assert wide.predict(images).dtype == np.float32
    np.testing.assert_array_equal(wide.predict(images).astype(jnp.bfloat16), as_trained)
    half = Predictor.from_snapshot(path, mixed_precision="output=f16")
    assert half.predict_proba(images).dtype == np.float16
    np.testing.assert_allclose(half.predict(images), as_trained.astype(np.float32), atol=0.1)


# The dtypes inside the real step: what is multiplied, and what is added up


@dataclasses.dataclass(frozen=True)
class Inside:
    """What a walk over a step's jaxpr finds.

    Attributes:
        faults: what is not as it should be under `mixed_precision: true`.
        products: how many products of matrices.
        accumulators: how many float carries of scans.
        narrow_sums: shapes of what reductions of floats narrower than float32 give.
    """

    faults: frozenset[str]
    products: int
    accumulators: int
    narrow_sums: tuple[tuple[int, ...], ...]


def is_float(variable, *names):
    dtype = variable.aval.dtype
    return jnp.issubdtype(dtype, jnp.floating) and (not names or str(dtype) in names)


def is_narrow(variable):
    return is_float(variable, "bfloat16", "float16")


def look_inside(step, state, *arguments):
    """Walks the jaxpr of a jitted step `(state, …) -> (state, report)`."""
    traced = step.trace(state, *arguments)
    closed, out = traced.jaxpr, traced.out_info
    faults, products, accumulators, narrow_sums = set(), 0, 0, []
    for equation in equations(closed.jaxpr):
        match equation.primitive.name:
            case "dot_general":
                products += 1
                if not all(is_float(operand, "bfloat16") for operand in equation.invars):
                    faults.add("dot_general")
            case "scan":
                # The scans here give nothing but their carries.
                floats = [carry for carry in equation.outvars if is_float(carry)]
                accumulators += len(floats)
                if not all(is_float(carry, "float32") for carry in floats):
                    faults.add("accumulator")
            case "is_finite" | "sqrt":
                if not all(is_float(operand, "float32") for operand in equation.invars):
                    faults.add("norm or guard")
            case name if name.startswith(("reduce", "cum", "scatter-add")) and any(
                map(is_narrow, equation.invars)
            ):
                narrow_sums.append(equation.outvars[0].aval.shape)
    new_state, report = out
    for name in ("params", "opt_state"):
        if dtypes(getattr(state, name), getattr(new_state, name)) != {"float32"}:
            faults.add(name)
    if dtypes(report) != {"float32"}:
        faults.add("report")
    return Inside(frozenset(faults), products, accumulators, tuple(sorted(narrow_sums)))


def inside_of_program(mixed_precision):
    program = make_program("cpu", mixed_precision)
    return look_inside(
        program._train_steps, program.init(), WINDOWS, 0, 1, program.no_rows
    ), program.init()


def test_mixed_precision_multiplies_in_bfloat16_and_adds_up_in_float32():
    inside, state = inside_of_program(True)
    assert inside.faults == frozenset()
    assert inside.products == 2 + 3  # forward; backward without the gradient of the inputs
    assert inside.accumulators == len(jax.tree.leaves(state.params)) + 4  # loss and a metric
    assert inside.narrow_sums == ()


@pytest.mark.uncached
def test_compiled_no_sum_is_computed_in_bfloat16():
    program = compile_program("cpu", True)
    text = (
        program._train_steps.lower(program.init(), WINDOWS, 0, 1, program.no_rows)
        .compile()
        .as_text()
    )
    kinds = re.findall(r"= (\w+)\[[\d,]*\]\S* reduce\(", text)
    assert "f32" in kinds and not {"bf16", "f16"} & set(kinds)


def bias_gradient(rows):
    """Of a bias that is added to every place of an image: the sum of the cotangents."""
    add = lambda bias: jnp.zeros_like(rows) + bias
    return jax.vjp(add, jnp.zeros(rows.shape[-1], rows.dtype))[1](rows)[0]


def embedding_gradient(rows):
    """Of one token's embedding, which all rows look up."""
    places = jnp.zeros(rows.shape[:-1], jnp.int32)
    look_up = lambda table: table[places]
    return jax.vjp(look_up, jnp.zeros((2, rows.shape[-1]), rows.dtype))[1](rows)[0][0]


def sum_in_loop(rows):
    """The same sum where a loop is around it."""
    return jax.lax.map(bias_gradient, rows[None])[0]


@pytest.mark.uncached
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("gradient", [bias_gradient, embedding_gradient, sum_in_loop])
def test_narrow_sums_are_made_in_float32_and_rounded_once(gradient, dtype):
    rows = np.random.default_rng(0).normal(1e-2, 0.1, size=(64, 14, 14, 8))
    rows = jnp.asarray(rows, dtype)
    want = np.asarray(rows).astype(np.float64).sum((0, 1, 2))
    error = lambda got: np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)
    assert error(jit_for("cpu")(gradient)(rows)) < jnp.finfo(dtype).eps
    if dtype == "bfloat16":
        assert error(jax.jit(gradient)(rows)) > 2 * jnp.finfo(dtype).eps, "the control"
    wide = rows.astype(jnp.float32)
    text = lambda function: str(jax.make_jaxpr(function)(wide))
    assert text(rewrite(gradient, WIDE_SUMS)) == text(gradient)


def test_without_mixed_precision_the_walk_sees_the_float32_products():
    inside, _ = inside_of_program(False)
    assert inside.faults == {"dot_general"}
    assert inside.narrow_sums == ()


def bfloat16_step(optimizer):
    """Trains a linear layer with everything in bfloat16, as the real step must not."""

    def loss(params, batch):
        outputs = batch["inputs"] @ params["kernel"] + params["bias"]
        errors = (outputs - batch["labels"]) ** 2
        return jax.lax.reduce_sum(errors, (0, 1))  # jnp.sum would add in float32

    def step(state, global_batch):
        def accumulate(carry, batch):
            return jax.tree.map(jnp.add, carry, jax.value_and_grad(loss)(state.params, batch)), None

        zeros = jnp.zeros((), jnp.bfloat16), jax.tree.map(jnp.zeros_like, state.params)
        (total, grads), _ = jax.lax.scan(accumulate, zeros, global_batch)
        norm = optax.tree.norm(grads)
        grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(norm), g, 0), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state), jnp.stack([total, norm])

    return step


def test_a_step_in_bfloat16_throughout_is_found_out():
    """The negative control of the walk: each kind of fault is seen."""
    optimizer = optax.adam(0.1)
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16), "bias": jnp.zeros(2, jnp.bfloat16)}
    state = TrainState(params, {}, optimizer.init(params), jnp.zeros(2), jnp.zeros(4))
    global_batch = jax.tree.map(lambda column: jnp.asarray(column, jnp.bfloat16), WINDOW)
    inside = look_inside(jax.jit(bfloat16_step(optimizer)), state, global_batch)
    assert inside.faults == {"accumulator", "norm or guard", "params", "opt_state", "report"}
    assert () in inside.narrow_sums, "the loss"


def test_the_real_step_with_bfloat16_parameters_is_found_out():
    policy = "params=bfloat16,compute=bfloat16"
    inside, _ = inside_of_program(policy)
    # The guard looks at the parameters as they are kept, which loses nothing.
    assert inside.faults == {"params", "opt_state", "norm or guard"}
