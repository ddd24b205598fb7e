"""What only a GPU can show. Each test is skipped where JAX finds none."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml
from support.gpu import REASON_TO_SKIP, has_gpu
from support.programs import make_spec
from support.runs import DIGITS

from aetheria.hardware.jax.strategy import select_strategy
from aetheria.plugins import MODELS

SimpleMLP = MODELS.get("SimpleMLP")
LANES, LANE_SIZE, NUM_STEPS = 4, 16, 20

pytestmark = [pytest.mark.gpu, pytest.mark.uncached]


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if not has_gpu():
        pytest.skip(REASON_TO_SKIP)


def make_window(seed):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(LANES, LANE_SIZE, 6)).astype(np.float32)
    return {
        "inputs": inputs,
        "labels": (inputs[..., :1] > 0).astype(np.int32)[..., 0],
        "mask": np.ones((LANES, LANE_SIZE), np.float32),
    }


def make_program(device, *, mixed_precision=False, elastic=False):
    # Dropout off: a GPU's random bits are the CPU's, but a mask flips where rounding differs.
    model = SimpleMLP(input_dim=6, hidden_dim=32, num_classes=2, learning_rate=3e-3)
    spec = make_spec(make_window(0), total_steps=NUM_STEPS, mixed_precision=mixed_precision)
    return select_strategy(device, {}, elastic=elastic).compile(model, spec)


def train(program, state, first=0, last=NUM_STEPS):
    """Takes the steps from `first` to `last`; returns the state and each step's metrics."""
    metrics = []
    for number in range(first, last):
        chunk = {name: column[None] for name, column in make_window(number).items()}
        state, report = program.train_steps(state, chunk, 0, 1)
        metrics.append(program.fetch(report).metrics)
    return state, metrics


def arrays_of(program, state):
    return {path: np.asarray(array) for path, array in program.export_state(state).items()}


def bits(arrays):
    return {path: array.tobytes() for path, array in arrays.items()}


@functools.cache
def on_cpu():
    program = make_program("cpu")
    return arrays_of(program, program.init()), train(program, program.init())[1]


@pytest.mark.parametrize(
    ("mixed_precision", "tolerance"), [(False, 1e-2), (True, 5e-2)], ids=["float32", "bfloat16"]
)
def test_a_gpu_trains_as_a_cpu_does_within_rounding(mixed_precision, tolerance):
    """A GPU may take float32 products in TF32, 10 bits of mantissa; bfloat16 has 7."""
    start, want = on_cpu()
    program = make_program("gpu", mixed_precision=mixed_precision)
    _, have = train(program, program.import_state(start))
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            [m[name] for m in have], [m[name] for m in want], rtol=tolerance, atol=tolerance
        )
    # The control: the bound is less than what training changes.
    assert want[0]["loss"] - want[-1]["loss"] > 2 * tolerance * (1 + want[-1]["loss"])


@pytest.mark.parametrize("mixed_precision", [False, True], ids=["float32", "bfloat16"])
def test_an_elastic_run_on_one_gpu_gives_the_same_bits_twice(mixed_precision):
    def run(last):
        program = make_program("gpu", mixed_precision=mixed_precision, elastic=True)
        return bits(arrays_of(program, train(program, program.init(), last=last)[0]))

    assert run(NUM_STEPS) == run(NUM_STEPS)
    assert run(NUM_STEPS - 1) != run(NUM_STEPS), "the control: a step changes bits"


@pytest.mark.parametrize("mixed_precision", [False, True], ids=["float32", "bfloat16"])
def test_a_run_resumed_on_a_gpu_goes_on_bit_for_bit(mixed_precision):
    program = make_program("gpu", mixed_precision=mixed_precision)
    whole = bits(arrays_of(program, train(program, program.init())[0]))
    saved = arrays_of(program, train(program, program.init(), last=7)[0])

    def resume(arrays):
        fresh = make_program("gpu", mixed_precision=mixed_precision)
        return bits(arrays_of(fresh, train(fresh, fresh.import_state(arrays), first=7)[0]))

    assert resume(saved) == whole
    start = arrays_of(program, program.init())
    lost = {p: start[p] if p.startswith("opt_state") else a for p, a in saved.items()}
    assert resume(lost) != whole, "the control: the optimizer's state decides how the run goes on"


RUNS = {
    "transformer": {"model_name": "Transformer", "data_name": "python_docs"},
    "transformer in bfloat16, accumulated": {
        "model_name": "Transformer",
        "data_name": "python_docs",
        "mixed_precision": True,
        "grad_accumulation_steps": 2,
    },
    "cnn": {"model_name": "SimpleCNN", "data_name": "fashion_mnist"},
    "cnn, elastic, checked": {
        "model_name": "SimpleCNN",
        "data_name": "fashion_mnist",
        "reproducibility": "elastic",
        "lanes": 4,
        "spot_check_every": 3,
    },
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_another_process_on_a_gpu_computes_the_bits_of_a_run(cli, tmp_path, changes):
    """By default XLA takes the kernels that it measures to be fastest, others in every process."""
    steps = {"max_steps": 12, "log_every_steps": 4, "snapshot": {"every_steps": 6}}
    config = {**changes, **steps, "batch_size": 16, "strategy": "gpu", "loggers": ["jsonl"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = cli("train", "config.yaml", "--workdir=run", as_user=True)
    if "dataset-fashion-mnist" in done.stderr:
        pytest.skip("needs the dataset Fashion-MNIST")
    assert done.returncode == 0, done.stderr
    options = ("--all", "--data-name", changes["data_name"])
    done = cli("prove", "replay", "run", *options, as_user=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 steps on cuda:0: the same bits" in done.stdout


def test_what_a_cpu_trained_is_computed_again_on_a_cpu_beside_a_gpu(cli, tmp_path):
    config = {**DIGITS, "max_steps": 6, "strategy": "cpu"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert cli("train", "config.yaml", "--workdir=run", as_user=True).returncode == 0
    done = cli("prove", "replay", "run", "--all", "--data-name=digits", as_user=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = cli("prove", "elastic", "config.yaml", "--steps=3", "--devices=1,2", as_user=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_many_threads_get_the_predictions_on_a_gpu_that_one_gets(tmp_path):
    import aetheria

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(256, 6)).astype(np.float32)
    result = aetheria.train(
        model_name="SimpleMLP",
        model_params={"num_classes": 2},
        data=(inputs, (inputs[:, 0] > 0).astype(np.int32)),
        max_steps=3,
        strategy="gpu",
        loggers=[],
        workdir=tmp_path / "run",
    )
    predictor = result.predictor()
    batches = [inputs[:size] for size in range(1, 65)]
    serial = [predictor.predict(batch) for batch in batches]
    before = [answer.copy() for answer in serial]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(predictor.predict, batches * 5))
    for answer, expected in zip(answers, before * 5, strict=True):
        np.testing.assert_array_equal(answer, expected)
        answer[:] = 0  # an answer is the caller's
    for answer, expected in zip(serial, before, strict=True):
        np.testing.assert_array_equal(answer, expected)


def test_pytorch_on_a_gpu_takes_the_steps_of_jax_on_a_cpu():
    """There the guard decides on the device, and a bad window is skipped by a flag on it."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU on this machine")
    from aetheria.engine.interfaces import SingleProcess
    from aetheria.hardware.torch.strategy import select_torch_strategy

    model = SimpleMLP(input_dim=6, hidden_dim=32, num_classes=2, learning_rate=3e-3)
    spec = make_spec(make_window(0), total_steps=NUM_STEPS)
    strategy = select_torch_strategy({}, SingleProcess(), host="", listen=None, device_ids=None)
    assert strategy.ranks.device.type == "cuda"
    there, here = strategy.compile(model, spec), make_program("cpu")
    states, metrics = zip(*(train(p, p.init()) for p in (there, here)), strict=True)
    for one, other in zip(*metrics, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    bad = make_window(0)
    bad["inputs"][0, 0, 0] = np.nan
    before = arrays_of(there, states[0])
    chunk = {name: column[None] for name, column in bad.items()}
    state, report = there.train_steps(states[0], chunk, 0, 1)
    assert there.fetch(report).guard[:5] == (NUM_STEPS + 1, 1, 1, NUM_STEPS + 1, NUM_STEPS + 1)
    after = arrays_of(there, state)
    assert {p for p in after if not np.array_equal(after[p], before[p])} == {"counters"}
