"""Choosing devices: what is chosen, and what is refused in one line before anything compiles."""

import math

import jax
import numpy as np
import pytest
from support.gpu import REASON_TO_SKIP, has_gpu
from support.programs import make_spec, train_step

from aetheria.errors import HardwareError
from aetheria.hardware.jax.cpu.threads import make_room_for_devices
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.plugins import MODELS

SimpleMLP = MODELS.get("SimpleMLP")


@pytest.mark.parametrize(
    ("name", "mesh_shape", "sizes"),
    [
        ("cpu", {}, (1, 1, 1)),
        ("mesh", {}, (8, 1, 1)),
        ("auto", {}, (8, 1, 1)),
        ("mesh", {"data": 2}, (2, 1, 1)),
        ("auto", {"fsdp": 4}, (1, 4, 1)),
        ("mesh", {"tensor": 2, "fsdp": 1, "data": 4}, (4, 1, 2)),
    ],
)
def test_a_strategy_takes_the_devices_it_says(name, mesh_shape, sizes):
    strategy = select_strategy(name, mesh_shape)
    assert strategy.name == name
    assert strategy.mesh.shape_tuple == tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    assert strategy.mesh.devices.flatten().tolist() == jax.devices()[: math.prod(sizes)]


@pytest.mark.parametrize(
    ("name", "mesh_shape", "message"),
    [
        ("mesh", {"model": 2}, r"mesh: expected the axes data, fsdp, tensor, got 'model'; use"),
        ("auto", {"data": 2, "fdsp": 2}, r"expected the axes data, fsdp, tensor, got 'fdsp'"),
        ("mesh", {"data": 16}, r"mesh: expected at most 8 devices, got 16 \(data=16\); "),
        ("mesh", {"data": 4, "fsdp": 4}, r"at most 8 devices, got 16 \(data=4 x fsdp=4\); "),
        ("mesh", {"data": 0}, r"mesh: expected 1 or more devices on the axis data, got 0; "),
        ("mesh", {"fsdp": -1}, r"mesh: expected 1 or more devices on the axis fsdp, got -1; "),
        ("cpu", {"data": 2}, r"mesh: expected no mesh with strategy 'cpu', got {'data': 2}; use "),
        ("gpu", {"data": 2}, r"mesh: expected no mesh with strategy 'gpu', got {'data': 2}; use "),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_in_one_line(name, mesh_shape, message):
    with pytest.raises(HardwareError, match=message) as caught:
        select_strategy(name, mesh_shape)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_is_refused_naming_what_is():
    if has_gpu():
        pytest.skip("this machine has a GPU")
    message = r"strategy: expected a gpu device, got only cpu; use strategy 'auto'"
    with pytest.raises(HardwareError, match=message):
        select_strategy("gpu", {})


@pytest.mark.parametrize("micro_batch", [1, 7, 12])
@pytest.mark.parametrize("mesh_shape", [{}, {"fsdp": 8}, {"data": 2, "fsdp": 4}], ids=str)
def test_a_micro_batch_that_does_not_divide_over_the_devices_is_refused(mesh_shape, micro_batch):
    message = rf"expected a micro-batch that divides over 8 devices .* got {micro_batch} "
    with pytest.raises(HardwareError, match=message):
        select_strategy("mesh", mesh_shape).check(1, micro_batch)


@pytest.mark.parametrize("micro_batch", [8, 24])
def test_a_micro_batch_that_divides_over_the_devices_is_taken(micro_batch):
    select_strategy("mesh", {}).check(1, micro_batch)
    select_strategy("cpu", {}).check(1, micro_batch - 1)
    select_strategy("mesh", {"tensor": 8}).check(1, micro_batch - 1)  # each holds all of it


@pytest.mark.gpu
def test_training_on_a_gpu_stays_there_and_lowers_the_loss():
    if not has_gpu():
        pytest.skip(REASON_TO_SKIP)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 16, 6)).astype(np.float32)
    mask = np.ones((2, 16), np.float32)
    global_batch = {"inputs": inputs, "labels": inputs[..., :1], "mask": mask}
    model = SimpleMLP(input_dim=6, hidden_dim=16, learning_rate=1e-2)
    spec = make_spec(global_batch, total_steps=60, mixed_precision=True)
    program = select_strategy("gpu", {}).compile(model, spec)
    state, first = train_step(program, program.init(), global_batch)
    with jax.transfer_guard_device_to_host("disallow_explicit"):
        for _ in range(60):
            state, last = train_step(program, state, global_batch)
    # The control: reading a parameter in that loop is what the guard refuses. Not the report, whose
    # way to the host begins with the step.
    with (
        jax.transfer_guard_device_to_host("disallow_explicit"),
        pytest.raises(jax.errors.JaxRuntimeError, match="transfer"),
    ):
        np.asarray(jax.tree.leaves(state.params)[0])
    assert {device.platform for device in state.counters.devices()} == {"gpu"}
    assert program.fetch(last).metrics["loss"] < 0.5 * program.fetch(first).metrics["loss"]


@pytest.mark.parametrize(
    ("environ", "threads"),
    [
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, "32"),
        ({"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=6 --b=2"}, "24"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "NPROC": "9"}, "9"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}, None),
        ({}, None),
    ],
)
def test_virtual_devices_that_outnumber_the_cores_get_threads_to_meet_on(
    environ, threads, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    make_room_for_devices(environ)
    assert environ.get("NPROC") == threads
