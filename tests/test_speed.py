"""How fast a report says that training is, and how much of the devices it says that a run uses."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.metric_files import curve
from support.programs import make_spec

import aetheria
from aetheria.engine.heartbeat import Heartbeat
from aetheria.engine.speed import SpeedMeter
from aetheria.engine.stall_timer import StallTimer
from aetheria.events import Progress, TrainMetrics
from aetheria.hardware.jax.operations import Operations, count_operations
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.jax.utilization import device_memory
from aetheria.hardware.layout.peak_flops import peak_flops
from aetheria.observe.loggers.records import RATES, rates
from aetheria.plugins import MODELS

LENGTH, PEAK = 8, 1e9


def make_program(strategy, *, peak=PEAK):
    """A program of an MLP, and a chunk of one global batch of it."""
    shape = (1, 8 if strategy == "elastic" else 1, 8)
    inputs = np.random.default_rng(0).normal(size=(*shape, 12)).astype(np.float32)
    labels, mask = np.zeros(shape, np.int32), np.ones(shape, np.float32)
    chunk = {"inputs": inputs, "labels": labels, "mask": mask}
    spec = make_spec({name: column[0] for name, column in chunk.items()}, peak_flops=peak)
    model = MODELS.get("SimpleMLP")(input_dim=12, hidden_dim=16, num_classes=10)
    if strategy == "torch":
        pytest.importorskip("torch")
        from aetheria.engine.interfaces import SingleProcess
        from aetheria.hardware.torch.strategy import select_torch_strategy

        chosen = select_torch_strategy({}, SingleProcess(), host="", listen=None, device_ids=None)
    else:
        name, mesh = ("cpu", {}) if strategy == "cpu" else ("mesh", {"data": 2})
        chosen = select_strategy(name, mesh, elastic=strategy == "elastic")
    return chosen.compile(model, spec), chunk


# Of 8 examples by hand. Backwards, each product needs two of its size; the first, whose inputs have
# no gradient, one.
STEP_FLOPS = 2 * 8 * (2 * 12 * 16 + 3 * 16 * 10)


@pytest.fixture
def traces(monkeypatch):
    """Grows with each trace of the model's loss."""
    traced, model = [], MODELS.get("SimpleMLP")
    whole = model.loss

    def counted(self, *arguments):
        traced.append(1)
        return whole(self, *arguments)

    monkeypatch.setattr(model, "loss", counted)
    return traced


@pytest.mark.parametrize(
    ("strategy", "num_devices", "num_batches"),
    [("cpu", 1, 1), ("mesh", 2, 1), ("elastic", 2, 8), ("torch", 1, 1)],
)
def test_mfu_is_the_share_of_the_peak_that_the_products_take(
    strategy, num_devices, num_batches, traces
):
    program, chunk = make_program(strategy)
    program.train_steps(program.init(), chunk, 0, 1)
    assert traces, "the control"
    traces.clear()
    expected = 10 * num_batches * STEP_FLOPS / PEAK / num_devices
    assert program.mfu(10.0) == pytest.approx(expected)
    assert traces == [], "what was traced for the step is counted"


def test_what_is_computed_twice_to_save_memory_does_not_raise_mfu():
    plain, repeated = (
        count_operations(jax.make_jaxpr(jax.grad(f))(jnp.ones((4, 4)))) for f in (loss, saving)
    )
    assert plain.repeated_flops == 0 < repeated.repeated_flops
    assert repeated.flops - repeated.repeated_flops == plain.flops < repeated.flops
    assert plain.utilization(1.0, 1e6) == repeated.utilization(1.0, 1e6)


def loss(kernel):
    return jnp.tanh(jnp.ones((8, 4)) @ kernel).sum()


saving = jax.checkpoint(loss)


def test_a_loop_of_unknown_length_has_no_utilization():
    assert Operations(flops=10, unknown_loops=1, elements=0).utilization(1.0, 1.0) is None


@pytest.mark.parametrize("peak", [None, 0.0])
@pytest.mark.parametrize("strategy", ["cpu", "elastic", "torch"])
def test_without_a_known_peak_there_is_no_mfu(strategy, peak):
    program, _ = make_program(strategy, peak=peak)
    assert program.mfu(10.0) is None and program.memory() is None


@pytest.mark.parametrize(
    ("kind", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA A100-PCIE-40GB", "float32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H100 NVL", "float16", 835),
        ("NVIDIA H200", "bfloat16", 989),
        ("NVIDIA B200", "bfloat16", 2250),
        ("NVIDIA L4", "bfloat16", 121),
        ("Tesla T4", "float16", 65),
        ("Tesla V100-SXM2-16GB", "float16", 125),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165),
        ("TPU v4", "bfloat16", 275),
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5p", "tf32", 459),
        ("TPU v6 lite", "bfloat16", 918),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("TPU v4 lite", "bfloat16", None),
        ("NVIDIA L40S", "bfloat16", None),
        ("NVIDIA A100-SXM4-80GB", "float64", None),
        ("cpu", "float32", None),
    ],
)
def test_the_peak_of_an_accelerator_is_known_by_its_name(kind, dtype, tflops):
    assert peak_flops(kind, dtype) == (None if tflops is None else tflops * 1e12)


def device(**stats):
    return SimpleNamespace(memory_stats=lambda: stats or None)


def test_memory_is_that_of_the_fullest_device():
    one = device(bytes_in_use=1, peak_bytes_in_use=9)
    other = device(bytes_in_use=3, peak_bytes_in_use=4)
    assert device_memory([one, other]) == (3, 9)
    assert device_memory([device()]) is None


def test_a_device_that_cannot_say_its_memory_has_none():
    def refuse():
        raise RuntimeError("UNIMPLEMENTED")

    assert device_memory([SimpleNamespace(memory_stats=refuse)]) is None


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand, for the speed and the stalls."""
    now = SimpleNamespace(now=100.0)
    time = SimpleNamespace(perf_counter=lambda: now.now)
    monkeypatch.setattr("aetheria.engine.speed.time", time)
    monkeypatch.setattr("aetheria.engine.stall_timer.time", time)
    return now


def test_the_wait_for_data_is_a_share_of_the_interval(clock):
    stalls = StallTimer(Heartbeat())
    meter = SpeedMeter(stalls)
    meter.restart(Progress(step=10, examples_seen=100))
    with stalls.for_data():
        clock.now += 1.0
    clock.now += 3.0
    assert meter.read(Progress(step=18, examples_seen=180)) == (2.0, 20.0, 0.25)
    clock.now += 2.0
    assert meter.read(Progress(step=20, examples_seen=200)) == (1.0, 10.0, 0.0), "a new interval"
    with stalls.for_data():
        clock.now += 5.0
    meter.restart(Progress(step=20, examples_seen=200))
    clock.now += 1.0
    assert meter.read(Progress(step=21, examples_seen=210)).data_wait_fraction == 0.0


TOKENS = {
    "model_name": "Transformer",
    "model_params": {"num_layers": 1, "width": 16, "num_heads": 2, "max_length": LENGTH},
    "data_name": "python_docs",
    "data_params": {"length": LENGTH},
    "batch_size": 16,
    "max_steps": 4,
    "log_every_steps": 2,
    "overfit_batches": 4,
    "peak_flops": PEAK,
    "loggers": ["jsonl", "tensorboard"],
}


def test_every_logger_gets_what_is_known_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events = []
    listen = lambda event: events.append(event) if isinstance(event, TrainMetrics) else None
    result = aetheria.train(**TOKENS, callbacks=[listen])
    file = result.run_dir / "metrics.jsonl"
    *lines, evaluation = [json.loads(line) for line in file.read_text().splitlines()]
    known = {name for name in RATES if "memory" not in name}  # a CPU does not report it
    assert [rates(event).keys() for event in events] == [known, known]
    for line in lines:
        assert known == set(RATES) & set(line)
        assert line["tokens_per_second"] == pytest.approx(LENGTH * line["examples_per_second"])
        assert line["mfu"] > 0 and 0 <= line["data_wait_fraction"] <= 1
    assert events[0].mfu / events[0].steps_per_second == pytest.approx(
        events[1].mfu / events[1].steps_per_second
    )
    for name in known:
        assert len(curve(result.run_dir / "tensorboard", f"train/{name}")) == 2
    assert evaluation["split"] == "eval" and not set(RATES) & set(evaluation)
    assert [*result.history] == [*lines, evaluation]


def test_a_run_without_tokens_or_a_peak_says_neither(train):
    line = train("run", max_steps=2, log_every_steps=2).metrics[0]
    assert set(RATES) & set(line) == {
        "steps_per_second",
        "examples_per_second",
        "data_wait_fraction",
    }
