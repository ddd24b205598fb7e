"""The pure step: numbers against float64 NumPy, accumulation, the guard, its RNG, its dtypes."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny_mlp import (
    LEARNING_RATE,
    MODEL,
    MOMENTUM,
    Scalar,
    equal,
    equations,
    learned,
    make_window,
    valid,
)

from aetheria.hardware.jax import update
from aetheria.hardware.jax.gradient import make_gradient
from aetheria.hardware.jax.guard import unfreeze
from aetheria.hardware.jax.step import make_eval_step, make_train_step
from aetheria.hardware.layout.counters import CONSECUTIVE, LAST_SKIPPED, NUM_SKIPPED, STEP
from aetheria.hardware.layout.evaluation import make_eval_sums
from aetheria.hardware.layout.state import make_init
from aetheria.model.precision import Precision, cast_floating

FLOAT32 = Precision()
MIXED = Precision.parse(True)


@functools.cache
def compiled_init(model):
    return jax.jit(make_init(model, model.optimizer(1)))


@functools.cache
def compiled_gradient(model, precision=FLOAT32):
    return jax.jit(make_gradient(model, precision))


def make_state(model, global_batch):
    example = {name: column[0] for name, column in global_batch.items()}
    return compiled_init(model)(jax.random.key(0), example)


FOREVER = 2**31 - 1


def never_holding(state):
    return state._replace(counters=unfreeze(state.counters, FOREVER))


@functools.cache
def make_step(model, precision=FLOAT32, max_consecutive_skips=10):
    return jax.jit(make_train_step(model, model.optimizer(1), precision, max_consecutive_skips))


def with_value(global_batch, column, index, value):
    changed = global_batch[column].copy()
    changed[index] = value
    return {**global_batch, column: changed}


def max_relative_difference(tree, reference):
    """The largest difference in any leaf, over the largest value of that leaf."""
    leaves = jax.tree.map(
        lambda a, b: float(np.max(np.abs(np.float64(a) - b)) / np.max(np.abs(b))), tree, reference
    )
    return max(jax.tree.leaves(leaves))


def reference(params, global_batch):
    """Weighted mean loss and its gradient in float64, written out."""
    p = {name: np.float64(value) for name, value in params.items()}
    x, y, mask = (np.float64(global_batch[name]) for name in ("inputs", "labels", "mask"))
    x, y, mask = x.reshape(-1, 3), y.reshape(-1, 2), mask.reshape(-1)
    hidden = np.tanh(x @ p["w1"] + p["b1"])
    error = hidden @ p["w2"] + p["b2"] - y
    loss = (mask * (error**2).sum(axis=1)).sum() / mask.sum()
    d_outputs = 2 * error * mask[:, None] / mask.sum()
    d_hidden = (d_outputs @ p["w2"].T) * (1 - hidden**2)
    grads = {
        "w1": x.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "w2": hidden.T @ d_outputs,
        "b2": d_outputs.sum(axis=0),
    }
    return loss, grads


def mean_gradient(global_batch, params):
    """The gradient a window leads to: the sums of `make_gradient`, divided once."""
    model_state = {"mean": jnp.zeros(3)}
    grads, sums, _ = compiled_gradient(MODEL)(params, model_state, global_batch, jax.random.key(0))
    return jax.tree.map(lambda g: np.asarray(g) / np.asarray(sums.weight), grads)


WEIGHTS = [[1.0, 0.5, 2.0, 0.0], [3.0, 1.0, 0.25, 1.0]]


def test_loss_and_gradient_norm_are_those_of_numpy():
    global_batch = make_window(WEIGHTS)
    state = make_state(MODEL, global_batch)
    loss, grads = reference(state.params, global_batch)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    _, report = make_step(MODEL)(state, global_batch)
    total, weight = np.asarray(report.values[0])
    np.testing.assert_allclose(total / weight, loss, rtol=1e-6)
    np.testing.assert_allclose(report.values[1], [norm, 1], rtol=1e-6)
    assert weight == np.sum(WEIGHTS)
    unweighted, _ = reference(state.params, {**global_batch, "mask": np.ones((2, 4))})
    assert not np.allclose(total / weight, unweighted, rtol=1e-6)


def test_gradient_is_that_of_numpy():
    global_batch = make_window(WEIGHTS)
    params = make_state(MODEL, global_batch).params
    _, want = reference(params, global_batch)
    assert max_relative_difference(mean_gradient(global_batch, params), want) < 1e-6
    _, unweighted = reference(params, {**global_batch, "mask": np.ones((2, 4))})
    assert max_relative_difference(mean_gradient(global_batch, params), unweighted) > 1e-2


def test_one_step_of_sgd_is_that_of_numpy():
    global_batch = make_window(WEIGHTS)
    state = make_state(MODEL, global_batch)
    _, grads = reference(state.params, global_batch)
    want = {name: np.float64(state.params[name]) - LEARNING_RATE * grads[name] for name in grads}
    stepped, _ = make_step(MODEL)(state, global_batch)
    assert max_relative_difference(stepped.params, want) < 1e-6
    assert max_relative_difference(state.params, want) > 1e-2


def test_evaluation_adds_up_to_the_mean_of_numpy_whatever_the_padding():
    global_batch = make_window(valid(4, 3, micro_batch=4))
    state = make_state(MODEL, global_batch)
    first, second = ({name: a[i] for name, a in global_batch.items()} for i in range(2))
    zeros = jax.tree.map(jnp.zeros_like, make_eval_sums(MODEL, FLOAT32)(state, first))
    eval_step = jax.jit(make_eval_step(MODEL, FLOAT32))
    totals = eval_step(state, second, eval_step(state, first, zeros))
    loss, _ = reference(state.params, global_batch)
    np.testing.assert_allclose(totals.total / totals.weight, loss, rtol=1e-6)
    assert totals.num_examples == 7
    mean_of_means = np.mean([reference(state.params, batch)[0] for batch in (first, second)])
    assert not np.allclose(totals.total / totals.weight, mean_of_means, rtol=1e-6)


@pytest.mark.parametrize(
    "mask",
    [valid(8, 8, 8, 8), valid(1, 7, 8, 3), valid(5, 0, 8, 2), valid(8, 8, 1, 0) * 0.3],
    ids=["even", "ragged", "one of zero weight", "fractional"],
)
def test_four_micro_batches_give_the_gradient_of_one_batch(mask):
    global_batch = make_window(mask)
    whole = {name: a.reshape(1, -1, *a.shape[2:]) for name, a in global_batch.items()}
    params = make_state(MODEL, global_batch).params
    want = mean_gradient(whole, params)
    assert max_relative_difference(mean_gradient(global_batch, params), want) <= 1e-6


@pytest.mark.parametrize("mask", [valid(1, 7, 8, 3), valid(5, 1, 8, 2)], ids=["ragged", "other"])
def test_mean_of_means_is_another_gradient(mask):
    """The negative control of the test above: dividing per micro-batch fails its tolerance."""
    global_batch = make_window(mask)
    whole = {name: a.reshape(1, -1, *a.shape[2:]) for name, a in global_batch.items()}
    params = make_state(MODEL, global_batch).params
    means = [
        mean_gradient({n: a[i : i + 1] for n, a in global_batch.items()}, params) for i in range(4)
    ]
    mean_of_means = jax.tree.map(lambda *grads: np.mean(grads, axis=0), *means)
    assert max_relative_difference(mean_of_means, mean_gradient(whole, params)) > 1e-2


def test_one_and_seven_valid_examples_give_a_gradient_of_4_5_and_not_of_3():
    inputs = np.where(np.arange(2)[:, None] == 0, 1, 5) * np.ones((2, 8))
    global_batch = {"inputs": inputs.astype(np.float32), "mask": valid(1, 7)}
    model = Scalar(lambda w, x: w * x)
    grads, sums, _ = compiled_gradient(model)(
        make_state(model, global_batch).params, {}, global_batch, jax.random.key(0)
    )
    assert grads["w"] / sums.weight == 4.5
    assert np.mean([1, 5]) == 3.0  # what a mean of the two means gives


def test_a_window_of_zero_weight_changes_nothing_but_the_step():
    global_batch = make_window(valid(3, 2))
    step = make_step(MOMENTUM)
    state, _ = step(make_state(MOMENTUM, global_batch), global_batch)  # momentum and decay now pull
    padding = {**global_batch, "mask": np.zeros_like(global_batch["mask"])}
    stepped, report = step(state, padding)
    assert equal(learned(stepped), learned(state))
    assert stepped.counters.tolist() == [2, 0, 0, 0, 0, 0]
    assert report.values[0].tolist() == [0, 0]
    one_example, _ = step(state, {**padding, "mask": valid(1, 0)})
    for have, had in zip(learned(one_example), learned(state), strict=True):
        assert not equal(have, had)


def test_a_micro_batch_of_padding_alone_leaves_the_model_state():
    global_batch = make_window(valid(8, 5, 0, 0))
    step = make_step(MODEL)
    padded, _ = step(make_state(MODEL, global_batch), global_batch)
    short = {name: a[:2] for name, a in global_batch.items()}
    want, _ = step(make_state(MODEL, global_batch), short)
    assert equal(padded.model_state, want.model_state)
    full, _ = step(make_state(MODEL, global_batch), {**global_batch, "mask": valid(8, 5, 1, 0)})
    assert not equal(full.model_state, want.model_state)


BAD_MICRO_BATCH = (1, 2)  # the third example of micro-batch 2 of 4


@pytest.mark.parametrize("column", ["inputs", "labels", "mask"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_micro_batch_leaves_the_state_bit_equal_and_is_counted(column, value):
    global_batch = make_window(valid(8, 8, 8, 8))
    step = make_step(MOMENTUM)
    state, _ = step(make_state(MOMENTUM, global_batch), global_batch)
    guarded, report = step(state, with_value(global_batch, column, BAD_MICRO_BATCH, value))
    assert equal(learned(guarded), learned(state))
    assert np.array_equal(guarded.base_key, state.base_key)
    assert guarded.counters[STEP] == 2
    assert guarded.counters[NUM_SKIPPED] == 1
    assert guarded.counters[CONSECUTIVE] == 1
    assert guarded.counters[LAST_SKIPPED] == 2
    assert report.counters.tolist() == guarded.counters.tolist()
    good, _ = step(state, global_batch)
    for have, had in zip(learned(good), learned(state), strict=True):
        assert not equal(have, had)


def test_without_the_guard_the_same_window_would_ruin_every_parameter():
    global_batch = with_value(make_window(valid(8, 8, 8, 8)), "inputs", BAD_MICRO_BATCH, np.nan)
    state = make_state(MOMENTUM, global_batch)
    gradient = compiled_gradient(MOMENTUM)
    grads, sums, model_state = gradient(
        state.params, state.model_state, global_batch, jax.random.key(0)
    )
    updates, _ = MOMENTUM.optimizer(1).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(params))
    assert np.isnan(model_state["mean"]).any() and np.isnan(sums.total)


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped():
    global_batch = {"inputs": np.ones((1, 2), np.float32), "mask": np.ones((1, 2), np.float32)}
    model = Scalar(lambda w, x: jnp.sqrt(w * w) * x, start=0.0)  # d sqrt(u) / du at 0
    state, report = make_step(model)(make_state(model, global_batch), global_batch)
    assert report.values.tolist() == [[0, 0]] * 2, "it is no step of the interval"
    assert state.params["w"] == 0
    assert state.counters.tolist() == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_finite_sum_over_a_weight_that_is_not_is_skipped(weight):
    @dataclass(frozen=True)
    class Weighted(Scalar):
        def loss(self, params, model_state, batch, rng, train):
            out = super().loss(params, model_state, batch, rng, train)
            return out._replace(weight=batch["weight"].sum())

    ones = np.ones((1, 2), np.float32)
    global_batch = {"inputs": ones, "mask": ones, "weight": ones}
    model = Weighted(lambda w, x: w * x)
    step, state = make_step(model), make_state(model, global_batch)
    skipped, _ = step(state, with_value(global_batch, "weight", (0, 1), np.float32(weight)))
    assert equal(learned(skipped), learned(state))
    assert skipped.counters.tolist() == [1, 1, 1, 1, 1, 0]
    assert step(state, global_batch)[0].counters.tolist() == [1, 0, 0, 0, 0, 0]


def test_training_goes_on_after_a_skip_as_if_the_window_had_not_been():
    global_batch, other = (make_window(valid(8, 8), seed) for seed in range(2))
    bad = with_value(global_batch, "inputs", (0, 0), np.nan)
    step = make_step(MOMENTUM)
    skipped = with_skip = never_holding(make_state(MOMENTUM, global_batch))
    for each in (global_batch, bad, bad, other):
        with_skip, _ = step(with_skip, each)
    for each in (global_batch, other):
        skipped, _ = step(skipped, each)
    assert equal(learned(with_skip), learned(skipped))
    assert with_skip.counters.tolist() == [4, 2, 0, 3, 0, FOREVER]
    assert skipped.counters.tolist() == [2, 0, 0, 0, 0, FOREVER]


@pytest.mark.parametrize("examined", [0, 1, 2, 3])
def test_the_state_holds_at_the_first_bad_window_that_is_not_examined_until_released(examined):
    global_batch = make_window(valid(8, 8))
    bad = with_value(global_batch, "inputs", (0, 0), np.nan)
    step = make_step(MOMENTUM)
    start = make_state(MOMENTUM, global_batch)
    held = start._replace(counters=unfreeze(start.counters, examined))
    for each in (bad, bad, bad, global_batch):
        held, report = step(held, each)
    assert report.counters.tolist() == held.counters.tolist()
    if examined == 3:  # the control: it goes on
        assert held.counters.tolist() == [4, 3, 0, 3, 0, 3]
        assert not equal(learned(held), learned(start))
        return
    skipped = examined + 1
    assert held.counters.tolist() == [skipped, skipped, skipped, skipped, skipped, examined]
    assert equal(learned(held), learned(start))
    freed, _ = step(held._replace(counters=unfreeze(held.counters, skipped)), global_batch)
    assert freed.counters.tolist() == [skipped + 1, skipped, 0, skipped, 0, skipped]
    assert not equal(learned(freed), learned(start))


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_state_freezes_exactly_at_the_limit_of_consecutive_skips(limit):
    global_batch = make_window(valid(8, 8))
    bad = with_value(global_batch, "inputs", (0, 0), np.nan)
    step = make_step(MOMENTUM, max_consecutive_skips=limit)
    state, _ = step(never_holding(make_state(MOMENTUM, global_batch)), global_batch)
    before = state
    for _ in range(limit - 1):
        state, _ = step(state, bad)
    lively, _ = step(state, global_batch)  # one fewer than the limit: it still learns
    assert not equal(lively.params, before.params)
    frozen, _ = step(state, bad)
    assert frozen.counters.tolist() == [limit + 1, limit, limit, limit + 1, 0, FOREVER]
    later = frozen
    for each in (global_batch, bad, global_batch):
        later, report = step(later, each)
    assert equal(learned(later), learned(before))
    assert later.counters.tolist() == frozen.counters.tolist() == report.counters.tolist()


def draws(state, global_batches):
    """The random metric of each of some steps."""
    step, seen = make_step(MODEL), []
    for global_batch in global_batches:
        state, report = step(state, global_batch)
        seen.append(float(report.values[2, 0]))
    return seen


def test_the_random_numbers_of_a_step_depend_on_the_step_and_the_seed_alone():
    global_batch, other = (make_window(valid(8, 8), seed) for seed in range(2))
    bad = with_value(global_batch, "inputs", (0, 0), np.nan)
    state = make_state(MODEL, global_batch)
    uninterrupted = draws(state, [global_batch] * 4)
    assert len(set(uninterrupted)) == 4
    assert draws(never_holding(state), [other, bad, other, bad])[::2] == uninterrupted[::2]
    resumed = state._replace(counters=jnp.array([2, 0, 0, 0, 0, 0], jnp.int32))
    assert draws(resumed, [global_batch] * 2) == uninterrupted[2:]
    seeded = state._replace(base_key=jax.random.key_data(jax.random.key(1)))
    assert not set(draws(seeded, [global_batch] * 4)) & set(uninterrupted)


def test_the_micro_batches_of_a_step_draw_different_numbers():
    global_batch = make_window(valid(8, 8))
    state = make_state(MODEL, global_batch)
    alone = [
        draws(state, [{**global_batch, "mask": valid(*counts)}]) for counts in ((8, 0), (0, 8))
    ]
    assert alone[0] != alone[1]
    np.testing.assert_allclose(sum(map(sum, alone)), draws(state, [global_batch]), rtol=1e-6)


def traced(precision):
    global_batch = make_window(valid(8, 8, 8, 8))
    step = make_train_step(MODEL, MODEL.optimizer(1), precision, 10)
    return list(
        equations(jax.make_jaxpr(step)(make_state(MODEL, global_batch), global_batch).jaxpr)
    )


def dot_dtypes(equations):
    return {
        str(operand.aval.dtype)
        for equation in equations
        if equation.primitive.name == "dot_general"
        for operand in equation.invars
    }


def scan_carry_dtypes(equations):
    """The dtypes of the float carries of every scan; the scans here give nothing but carries."""
    return [
        str(carry.aval.dtype)
        for equation in equations
        if equation.primitive.name == "scan"
        for carry in equation.outvars
        if jnp.issubdtype(carry.aval.dtype, jnp.floating)
    ]


def test_mixed_precision_multiplies_in_bfloat16_and_accumulates_in_float32():
    found = traced(MIXED)
    assert dot_dtypes(found) == {"bfloat16"}
    carries = scan_carry_dtypes(found)
    assert set(carries) == {"float32"}
    assert len(carries) >= 4 + 2 + 2 + 1  # gradients, loss, metric, model state


def test_without_mixed_precision_everything_is_float32():
    found = traced(FLOAT32)
    assert dot_dtypes(found) == set(scan_carry_dtypes(found)) == {"float32"}


def test_a_bfloat16_accumulator_would_be_seen():
    """The negative control of the two tests above."""

    def accumulate(x):
        return jax.lax.scan(lambda c, row: (c + row @ row, None), jnp.zeros((), x.dtype), x)[0]

    found = list(equations(jax.make_jaxpr(accumulate)(jnp.ones((4, 3), jnp.bfloat16)).jaxpr))
    assert scan_carry_dtypes(found) == ["bfloat16"]
    assert dot_dtypes(found) == {"bfloat16"}


def test_mixed_precision_keeps_gradients_parameters_and_optimizer_state_in_float32():
    global_batch = make_window(valid(8, 8))
    state = make_state(MOMENTUM, global_batch)
    grads, sums, model_state = compiled_gradient(MOMENTUM, MIXED)(
        state.params, state.model_state, global_batch, jax.random.key(0)
    )
    stepped, report = make_step(MOMENTUM, MIXED)(state, global_batch)
    everything = (grads, sums, model_state, learned(stepped), report)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(everything)}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_many_small_micro_batches_are_not_lost_in_mixed_precision():
    num_micro = 1024
    ones = np.ones((num_micro, 1), np.float32)
    global_batch = {"inputs": ones, "mask": ones}
    model = Scalar(lambda w, x: w * x)
    params = make_state(model, global_batch).params
    grads, sums, _ = compiled_gradient(model, MIXED)(params, {}, global_batch, jax.random.key(0))
    assert grads["w"] == sums.total == sums.weight == num_micro
    in_bfloat16 = jnp.zeros((), jnp.bfloat16)
    for _ in range(num_micro):
        in_bfloat16 += jnp.ones((), jnp.bfloat16)
    assert in_bfloat16 == 256  # the control: where 8 bits of mantissa end


def test_labels_and_mask_keep_their_precision():
    exact = np.full((1, 1), 257, np.float32)  # bfloat16 has no 257
    global_batch = {
        "inputs": np.zeros((1, 1, 3), np.float32),
        "labels": exact[..., None],
        "mask": exact,
    }
    state = make_state(MODEL, make_window(valid(1)))
    zero = jax.tree.map(jnp.zeros_like, state.params)
    _, report = make_step(MODEL, MIXED)(state._replace(params=zero), global_batch)
    np.testing.assert_allclose(report.values[0], [2 * 257**2 * 257, 257], rtol=1e-6)
    cast = MIXED.cast_batch({name: jnp.asarray(a) for name, a in global_batch.items()})
    dtypes = {name: str(column.dtype) for name, column in cast.items()}
    assert dtypes == {"inputs": "bfloat16", "labels": "float32", "mask": "float32"}
    assert cast_floating(exact, jnp.bfloat16) == 256  # the control


def test_inputs_that_are_no_floats_are_not_cast():
    batch = {"inputs": {"tokens": np.array([70_001]), "image": np.ones((1, 2), np.float32)}}
    cast = MIXED.cast_batch(batch)["inputs"]
    assert cast["tokens"] is batch["inputs"]["tokens"]
    assert cast["image"].dtype == jnp.bfloat16


def faults(global_batch):
    """Windows of each kind that the guard judges differently, good ones in between."""
    bad = functools.partial(with_value, global_batch, index=BAD_MICRO_BATCH)
    padding = {**global_batch, "mask": np.zeros_like(global_batch["mask"])}
    big = {**global_batch, "labels": global_batch["labels"] * np.float32(1e30)}
    return [
        global_batch,
        bad(column="inputs", value=np.nan),
        global_batch,
        padding,
        bad(column="labels", value=np.inf),
        big,  # its loss is finite in float32, its gradient is not in float16
        global_batch,
        bad(column="mask", value=np.nan),
        bad(column="mask", value=np.nan),
        global_batch,
    ]


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("examined", [0, FOREVER], ids=["freezes", "skips"])
def test_a_step_that_branches_and_one_that_selects_do_the_same(precision, examined):
    """A CPU takes the one, a GPU the other, where a branch would wait for the host."""
    precision = Precision.parse(f"params=float32,compute={precision}")
    global_batch = make_window(valid(8, 8, 8, 8))
    init = jax.jit(make_init(MOMENTUM, MOMENTUM.optimizer(1), precision))
    states = [init(jax.random.key(0), {n: a[0] for n, a in global_batch.items()})] * 2
    states = [s._replace(counters=unfreeze(s.counters, examined)) for s in states]
    steps = [
        jax.jit(make_train_step(MOMENTUM, MOMENTUM.optimizer(1), precision, 2, branches=branches))
        for branches in (True, False)
    ]
    assert [" cond[" in str(step.trace(states[0], global_batch).jaxpr) for step in steps] == [
        True,
        False,
    ]
    seen = set()
    for window in faults(global_batch):
        (states[0], one), (states[1], other) = (
            step(state, window) for step, state in zip(steps, states, strict=True)
        )
        assert equal(states[0], states[1])
        assert equal(one, other)
        seen.add((int(states[0].counters[NUM_SKIPPED]), int(states[0].counters[CONSECUTIVE])))
    assert len(seen) > 1, "the control: some windows were skipped"


def test_a_large_state_branches_in_any_case(monkeypatch):
    global_batch = make_window(valid(8, 8, 8, 8))
    state = make_state(MOMENTUM, global_batch)
    learned = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    for most, branches in ((learned, False), (learned - 1, True)):
        monkeypatch.setattr(update, "_MOST_SELECTED", most)
        step = make_train_step(MOMENTUM, MOMENTUM.optimizer(1), FLOAT32, 2, branches=False)
        assert (" cond[" in str(jax.make_jaxpr(step)(state, global_batch))) == branches
