"""Elastic: the same bits on any number of devices; and what lanes make of a window."""

import functools
from dataclasses import dataclass

import jax
import numpy as np
import optax
import pytest
from support.compiled import compiled_functions
from support.long import covering_rows, long_or, only_long
from support.models import LinenNormed, PlainLinear
from support.programs import make_spec

from aetheria.hardware.jax.elastic import ElasticProgram
from aetheria.hardware.jax.strategy import select_strategy

pytestmark = pytest.mark.uncached

LANES, LANE_SIZE = 8, 2
MANY = long_or(2, 8)  # devices: the lanes' program is compiled for each
MODEL = LinenNormed()  # dropout, batch statistics and a stateful optimizer


def make_window(seed=0, num_valid=LANES * LANE_SIZE):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(LANES, LANE_SIZE, 6)).astype(np.float32)
    mask = (np.arange(LANES * LANE_SIZE) < num_valid).astype(np.float32)
    labels = inputs[..., :2].sum(axis=-1, keepdims=True)
    return {"inputs": inputs, "labels": labels, "mask": mask.reshape(LANES, LANE_SIZE)}


WINDOWS = [make_window(seed) for seed in range(3)] + [make_window(9, num_valid=5)]


@functools.cache
def make_program(devices, *, elastic=True, mixed_precision=False, model=MODEL):
    spec = make_spec(WINDOWS[0], mixed_precision=mixed_precision)
    return select_strategy("mesh", {"data": devices}, elastic=elastic).compile(model, spec)


def batch_of(global_batch, lane):
    return {name: column[lane] for name, column in global_batch.items()}


def run(program, global_batches=WINDOWS):
    """Trains on the windows; returns the state as bytes and every report."""
    state, reports = program.init(), []
    for global_batch in global_batches:
        chunk = {name: column[None] for name, column in global_batch.items()}
        state, report = program.train_steps(state, chunk, 0, 1)
        reports.append(program.fetch(report))
    totals = None
    for lane in range(LANES):
        totals = program.eval_step(state, batch_of(WINDOWS[3], lane), totals)
    reports.append(program.fetch(totals))
    arrays = {path: np.array(a) for path, a in program.export_state(state).items()}
    return {path: a.tobytes() for path, a in arrays.items()}, reports, arrays


NUMBERS = {
    f"{devices}-{dtype}": (devices, dtype == "bfloat16")
    for devices in (2, 4, 8)
    for dtype in ("float32", "bfloat16")
}


@pytest.mark.parametrize(
    ("devices", "mixed_precision"), covering_rows(NUMBERS, default=["2-float32"])
)
def test_any_number_of_devices_gives_the_same_bits(devices, mixed_precision):
    want, want_reports, _ = run(make_program(1, mixed_precision=mixed_precision))
    have, have_reports, _ = run(make_program(devices, mixed_precision=mixed_precision))
    assert have == want
    assert have_reports == want_reports
    assert have_reports[-1].num_examples == 5


def test_without_lanes_the_bits_depend_on_the_devices():
    """The control of the test above: the comparison can fail."""
    one, _, _ = run(make_program(1, elastic=False))
    eight, _, _ = run(make_program(2, elastic=False))
    assert one != eight


@pytest.mark.parametrize("path", ["counters", "base_key", "params", "model_state", "opt_state"])
def test_a_run_that_moves_to_other_devices_goes_on_bit_equal(path):
    stayed, _, _ = run(make_program(1))
    _, _, arrays = run(make_program(MANY), WINDOWS[:2])
    program = make_program(long_or(1, 2))

    def go_on(arrays):
        state = program.import_state(arrays)
        for global_batch in WINDOWS[2:]:
            chunk = {name: column[None] for name, column in global_batch.items()}
            state, _ = program.train_steps(state, chunk, 0, 1)
        return {path: np.asarray(a).tobytes() for path, a in program.export_state(state).items()}

    assert go_on(arrays) == stayed
    fresh, _, _ = run(make_program(1), [])
    lost = {
        name: np.frombuffer(fresh[name], a.dtype).reshape(a.shape) if name.startswith(path) else a
        for name, a in arrays.items()
    }
    if path == "base_key":
        lost["base_key"] = lost["base_key"] + 1
    assert go_on(lost) != stayed, f"the control: {path} decides how the run goes on"


def test_replicas_hold_the_same_bits():
    program = make_program(MANY)
    chunk = {name: column[None] for name, column in WINDOWS[0].items()}
    replicas, _ = program.train_steps(program.init(), chunk, 0, 1)
    assert len({next(iter(r.counters.devices())) for r in replicas}) == MANY
    texts = {b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(r)) for r in replicas}
    assert len(texts) == 1


@dataclass(frozen=True)
class Gradient(PlainLinear):
    """Keeps the last gradient in the optimizer's state, and the parameters where they are."""

    def optimizer(self, total_steps):
        return optax.chain(optax.trace(decay=0.0), optax.scale(0.0))


def gradient(arrays):
    return np.concatenate([a.ravel() for p, a in arrays.items() if p.startswith("opt_state")])


@pytest.mark.parametrize("num_valid", [16, 13, 2], ids=["even", "ragged", "empty lanes"])
def test_lanes_give_the_gradient_of_the_whole_window(num_valid):
    global_batch = make_window(num_valid=num_valid)
    whole = {
        name: a.reshape(1, LANES * LANE_SIZE, *a.shape[2:]) for name, a in global_batch.items()
    }
    spec = make_spec(whole)
    plain = select_strategy("cpu", {}).compile(Gradient(), spec)
    chunk = {name: column[None] for name, column in whole.items()}
    state, _ = plain.train_steps(plain.init(), chunk, 0, 1)
    want = gradient({p: np.asarray(a) for p, a in plain.export_state(state).items()})
    _, _, arrays = run(make_program(MANY, model=Gradient()), [global_batch])
    assert np.linalg.norm(want) > 1e-3
    assert np.linalg.norm(gradient(arrays) - want) <= 1e-6 * np.linalg.norm(want)


def test_batch_statistics_are_the_mean_over_lanes_by_their_examples():
    global_batch = make_window(
        num_valid=5
    )  # lanes 0 and 1 are full, lane 2 is half, others are empty
    before = run(make_program(1), [])[2]
    alone = []
    for lane in range(3):
        only = {name: column.copy() for name, column in global_batch.items()}
        only["mask"][:] = 0
        only["mask"][lane] = global_batch["mask"][lane]
        alone.append(run(make_program(1), [only])[2])
    all_or_none = run(make_program(MANY), [global_batch])[2]
    for path in (p for p in before if p.startswith("model_state")):
        mean = (2 * alone[0][path] + 2 * alone[1][path] + alone[2][path]) / 5
        np.testing.assert_allclose(all_or_none[path], mean, rtol=1e-5, atol=1e-6)
        assert not np.allclose(all_or_none[path], before[path])


def test_a_window_with_one_bad_lane_is_skipped_on_every_device():
    bad = make_window()
    bad["inputs"][5, 0] = np.nan
    for devices in (1, MANY):
        program = make_program(devices)
        before = run(program, [])[0]
        after, reports, _ = run(program, [bad])
        assert {path for path in after if after[path] != before[path]} == {"counters"}
        assert reports[0].guard[:5] == (1, 1, 1, 1, 1)


def test_each_part_is_traced_once_on_all_devices():
    program = make_program(MANY)
    run(program)
    assert isinstance(program, ElasticProgram)
    assert program.num_compilations == {"train_step": 1, "eval_step": 1}


def test_nothing_is_compiled_that_no_step_calls(train):
    """The control is a fast run, which takes all of a step in one program."""
    for name in ("elastic", "fast"):
        with compiled_functions() as names:
            train(name, **{**on_devices(1), "reproducibility": name}, epochs=1)
        assert names.count("train_steps") == (name == "fast"), names
        assert names.count("lane_gradient") == (name == "elastic"), names


def on_devices(count):
    return {"reproducibility": "elastic", "strategy": "mesh", "mesh": {"data": count}}


def test_accumulation_on_one_device_gives_the_bits_of_as_many_devices_without(train):
    number = long_or(2, 4)
    one = train("one", **on_devices(1), grad_accumulation_steps=number)
    many = train("many", **on_devices(number), grad_accumulation_steps=1)
    assert one.summary["params_sha256"] == many.summary["params_sha256"]
    assert one.summary["micro_steps"] == number * many.summary["micro_steps"]
    fast = {**on_devices(number), "reproducibility": "fast"}
    control = train("fast", **fast, grad_accumulation_steps=1)
    assert control.summary["params_sha256"] != one.summary["params_sha256"]


@only_long
def test_a_run_that_starts_on_eight_devices_and_ends_on_two_was_never_moved(train):
    stayed = train("stayed", **on_devices(8))
    assert train("moved", **on_devices(8), stop_at_step=21).exit_code == 75
    moved = train("moved", **on_devices(2), resume="latest")
    for name in ("params_sha256", "final", "steps", "examples_seen"):
        assert moved.summary[name] == stayed.summary[name]
