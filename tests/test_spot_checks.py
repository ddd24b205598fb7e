"""Spot checks: faults planted in a device are found, and the device is named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.faults import FaultyLanes, flip_bit
from support.long import covering, long_or
from support.models import LinenNormed
from support.programs import make_spec

from aetheria.hardware.jax.digest import digest
from aetheria.hardware.jax.strategy import select_strategy

pytestmark = pytest.mark.uncached

LANES, LANE_SIZE = 8, 2


def make_window(seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(1, LANES, LANE_SIZE, 6)).astype(np.float32)
    mask = np.ones((1, LANES, LANE_SIZE), np.float32)
    return {"inputs": inputs, "labels": inputs[..., :2].sum(axis=-1, keepdims=True), "mask": mask}


@functools.cache
def make_program(devices, fsdp=1):
    spec = make_spec({n: c[0] for n, c in make_window().items()}, spot_checks=True)
    program = select_strategy("mesh", {"data": devices, "fsdp": fsdp}, elastic=True)
    program = program.compile(LinenNormed(), spec)
    program._lane_gradient = FaultyLanes(program._lane_gradient, np.random.default_rng(7))
    return program


def is_frozen(program, report):
    return program.fetch(report).guard.failed_check


def name_of(program, place):
    return str(program._devices[place])


@pytest.mark.parametrize("devices", covering([4, 8], default=[8]))
def test_every_flipped_bit_is_found_and_its_device_named(devices):
    program, rng = make_program(devices), np.random.default_rng(devices)
    share = LANES // devices
    state = program.init()
    for step in range(long_or(24, 200)):
        window = make_window(step)
        place = int(rng.integers(devices))
        if of_state := bool(rng.integers(2)):
            replicas = list(state)
            good = replicas[place]
            field = str(rng.choice(["params", "opt_state", "model_state", "base_key", "counters"]))
            bad = flip_bit(getattr(good, field), rng)
            replicas[place] = good._replace(**{field: bad})
            state = replicas
        else:  # of its own lane that is checked, or of the one that it checks for its partner
            own = program._check.row(step)
            program._lane_gradient.arm(place, int(rng.choice([own, share])))
        before = [np.asarray(leaf) for leaf in jax.tree.leaves(state[(place + 1) % devices])]
        state, report = program.checked_step(state, window, 0, None, step)
        state, report = program.train_steps(state, make_window(step + 1), 0, 1, report)
        program._lane_gradient.arm(-1)
        assert is_frozen(program, report), (step, place, of_state)
        found = program.examine(state, window, 0, step)
        assert [each.device for each in found.places] == [name_of(program, place)]
        assert found.is_decided and found.is_of_state == of_state
        if of_state:
            good = state[(place + 1) % devices]
            state[place] = jax.device_put(good, program._devices[place])
        state = program.continue_frozen(state)
        after = [np.asarray(leaf) for leaf in jax.tree.leaves(state[(place + 1) % devices])]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))
        state, report = program.checked_step(state, window, 0, None, step)
        assert not is_frozen(program, report)


def test_without_a_fault_there_is_no_alarm_and_no_bit_moves():
    """The control of the test above."""
    program, num_compared = make_program(8), 100
    state, plain, report, plain_report = program.init(), program.init(), None, None
    windows = [make_window(seed) for seed in range(8)]
    for step in range(num_compared):
        window = windows[step % 8]
        state, report = program.checked_step(state, window, 0, report, step)
        plain, plain_report = program.train_steps(plain, window, 0, 1, plain_report)
    assert program.fetch(report) == program.fetch(plain_report)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
    num_checks = long_or(num_compared, 20_000)
    for step in range(num_compared, num_checks):
        state, report = program.checked_step(state, windows[step % 8], 0, report, step)
    guard = program.fetch(report).guard
    assert not guard.failed_check and guard.step == num_checks


def test_of_a_state_in_parts_what_every_device_holds_whole_is_compared():
    program, window = make_program(2, fsdp=2), make_window()
    assert program._shards.is_split
    state, report = program.checked_step(program.init(), window, 0, None, 0)
    state, report = program.train_steps(state, window, 0, 1, report)
    assert not is_frozen(program, report)
    bad = flip_bit(state[3].model_state, np.random.default_rng(0))
    state[3] = state[3]._replace(model_state=bad)
    state, report = program.checked_step(state, window, 0, None, 2)
    assert is_frozen(program, report)
    (found,) = program.examine(state, window, 0, 2).places
    assert found.device == name_of(program, 3)


@pytest.mark.parametrize("place", [0, 5])
def test_a_device_that_is_always_wrong_is_outvoted(place):
    program, window = make_program(8), make_window()
    program._lane_gradient.arm(place, None)
    state, report = program.checked_step(program.init(), window, 0, None, 0)
    assert is_frozen(program, report)
    found = program.examine(state, window, 0, 0)
    program._lane_gradient.arm(-1)
    assert [each.device for each in found.places] == [name_of(program, place)]


def test_of_two_devices_none_is_blamed_without_a_majority():
    program, window = make_program(2), make_window()
    state = program.init()
    state[1] = state[1]._replace(params=flip_bit(state[1].params, np.random.default_rng(0)))
    state, report = program.checked_step(state, window, 0, None, 0)
    assert is_frozen(program, report)
    found = program.examine(state, window, 0, 0)
    assert not found.is_decided
    assert [each.device for each in found.places] == [name_of(program, i) for i in (0, 1)]


def test_one_device_finds_what_it_computes_wrong_once():
    program, window = make_program(1), make_window()
    program._lane_gradient.arm(0, program._check.row(0))
    state, report = program.checked_step(program.init(), window, 0, None, 0)
    assert is_frozen(program, report)
    assert program.examine(state, window, 0, 0).is_decided


DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "bool", "complex64", "uint32"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_digest_changes_with_every_bit_and_every_place(dtype):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 if dtype == "bool" else 100, (3, 5))
    leaves = [jnp.asarray(values, dtype), jnp.ones((2,), dtype)]
    compute = jax.jit(digest)
    seen = {tuple(np.asarray(compute(leaves)).tolist())}
    array = np.asarray(leaves[0])
    num_bits = 1 if dtype == "bool" else 8 * array.dtype.itemsize
    for element in range(array.size):
        for bit in range(num_bits):
            changed = array.copy()
            bits = changed.reshape(-1).view(np.uint8)
            bits[element * array.dtype.itemsize + bit // 8] ^= np.uint8(1 << bit % 8)
            seen.add(tuple(np.asarray(compute([jnp.asarray(changed), leaves[1]])).tolist()))
    for other in (np.roll(array, 1), -array if num_bits > 8 else array[::-1]):
        seen.add(tuple(np.asarray(compute([jnp.asarray(other), leaves[1]])).tolist()))
    assert len(seen) == array.size * num_bits + 3
