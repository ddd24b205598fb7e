"""One conformance suite every strategy's program passes, and what a mesh adds to it."""

import functools
import importlib.util
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import PartitionSpec
from support.compiled import compiled_functions
from support.long import covering, covering_rows
from support.models import LinenNormed, PlainLinear, squared_error
from support.programs import make_spec, train_step

from aetheria import LossOutput
from aetheria.engine.interfaces import SingleProcess
from aetheria.errors import AetheriaError, SnapshotError
from aetheria.hardware.jax.strategy import select_strategy

STRATEGIES = {
    "cpu": ("cpu", {}),
    "mesh2": ("mesh", {"data": 2}),
    "mesh8": ("mesh", {"data": 8}),
    "fsdp8": ("mesh", {"fsdp": 8}),
    "mesh2x2x2": ("mesh", {"data": 2, "fsdp": 2, "tensor": 2}),
}
# PyTorch's is another framework's program; it compiles nothing, and has a state of its own kind.
WITH_TORCH = [*STRATEGIES, *(["torch"] if importlib.util.find_spec("torch") else [])]
DEFAULT = ["cpu", "mesh2x2x2"]  # the second splits over every axis
every_strategy = pytest.mark.parametrize("strategy", covering([*STRATEGIES], default=DEFAULT))
MICRO_BATCH = 8

pytestmark = pytest.mark.own_programs  # counts what each of them compiles


@dataclass(frozen=True)
class Split(LinenNormed):
    """Dropout, batch statistics, a stateful optimizer, and rules."""

    def partition_rules(self):
        return [
            ("Dense_0/kernel", PartitionSpec(None, ("fsdp", "tensor"))),
            ("BatchNorm_0", PartitionSpec("fsdp")),
            ("Dense_1/kernel", PartitionSpec("tensor")),
        ]


MODEL = Split()


def make_window(seed=0, num_valid=2 * MICRO_BATCH):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2, MICRO_BATCH, 6)).astype(np.float32)
    mask = (np.arange(2 * MICRO_BATCH) < num_valid).astype(np.float32)
    labels = inputs[..., :2].sum(axis=-1, keepdims=True)
    return {"inputs": inputs, "labels": labels, "mask": mask.reshape(2, MICRO_BATCH)}


WINDOWS = [make_window(seed) for seed in range(3)]


def make_batch(seed=0, num_valid=MICRO_BATCH):
    return {name: column[0] for name, column in make_window(seed, num_valid).items()}


def make_program(strategy, model=MODEL):
    spec = make_spec(WINDOWS[0])
    if strategy == "torch":
        from support.torch_models import Twinned

        from aetheria.hardware.torch.strategy import select_torch_strategy

        torch_strategy = select_torch_strategy(
            {}, SingleProcess(), host="", listen=None, device_ids=None
        )
        return torch_strategy.compile(Twinned() if model is MODEL else model, spec)
    return select_strategy(*STRATEGIES[strategy]).compile(model, spec)


program_of = functools.cache(make_program)  # compiling is what takes time here


@pytest.fixture(params=covering(WITH_TORCH, default=[*DEFAULT, *WITH_TORCH[len(STRATEGIES) :]]))
def program(request):
    return program_of(request.param)


@pytest.fixture(params=covering([*STRATEGIES], default=DEFAULT))
def jax_program(request):
    return program_of(request.param)


def advance(program, state, global_batches):
    report = None
    for global_batch in global_batches:
        state, report = train_step(program, state, global_batch, report)
    return state, report


def on_host(arrays):
    return {path: np.array(array) for path, array in arrays.items()}


def exported(program, state):
    return on_host(program.export_state(state))


def equal(one, other):
    assert list(one) == list(other)
    return all(np.array_equal(one[path], other[path]) for path in one)


def test_init_is_a_function_of_the_seed(program):
    first, second = (exported(program, program.init()) for _ in range(2))
    assert equal(first, second)
    assert first["counters"].tolist() == [0, 0, 0, 0, 0, 0]


def test_a_train_step_learns_and_reports(program):
    before = exported(program, program.init())
    state, report = train_step(program, program.init(), make_window(num_valid=13))
    after = exported(program, state)
    changed = {
        path.split("/")[0] for path in after if not np.array_equal(after[path], before[path])
    }
    assert changed == {"params", "model_state", "opt_state", "counters"}
    fetched = program.fetch(report)
    assert list(fetched.metrics) == ["loss", "grad_norm", "mae"]
    assert all(np.isfinite(value) and value > 0 for value in fetched.metrics.values())
    assert fetched.num_examples is None
    assert fetched.guard[:5] == (1, 0, 0, 0, 0)


def test_an_eval_step_adds_to_its_totals_and_leaves_the_state(program):
    state = program.init()
    before = exported(program, state)
    one = program.fetch(program.eval_step(state, make_batch(0)))
    other = program.fetch(program.eval_step(state, make_batch(1, num_valid=3)))
    totals = program.eval_step(
        state, make_batch(1, num_valid=3), program.eval_step(state, make_batch())
    )
    both = program.fetch(totals)
    assert both.num_examples == 11 and both.guard is None
    for name in ("loss", "mae"):
        mean = (8 * one.metrics[name] + 3 * other.metrics[name]) / 11
        np.testing.assert_allclose(both.metrics[name], mean, rtol=1e-6)
        assert not np.isclose(both.metrics[name], (one.metrics[name] + other.metrics[name]) / 2)
    assert tuple(f"eval/{name}" for name in both.metrics) == program.eval_metrics
    assert equal(exported(program, state), before)


def test_the_same_steps_give_the_same_bits(program):
    first, second = (advance(program, program.init(), WINDOWS)[0] for _ in range(2))
    assert equal(exported(program, first), exported(program, second))
    other, _ = advance(program, program.init(), WINDOWS[::-1])
    assert not equal(exported(program, first), exported(program, other))


CHUNK = {name: np.stack([global_batch[name] for global_batch in WINDOWS]) for name in WINDOWS[0]}


@pytest.mark.parametrize("cuts", covering([(3,), (1, 2), (2, 1), (1, 1, 1)], default=[(1, 2)]))
def test_a_chunk_gives_the_same_bits_wherever_it_is_cut(program, cuts):
    want, want_report = program.train_steps(program.init(), CHUNK, 0, len(WINDOWS))
    state, start, report = program.init(), 0, None
    for count in cuts:
        state, report = program.train_steps(state, CHUNK, start, count, report)
        start += count
    assert equal(exported(program, state), exported(program, want))
    assert program.fetch(report) == program.fetch(want_report)
    other, _ = program.train_steps(program.init(), CHUNK, 0, len(WINDOWS) - 1)
    assert not equal(exported(program, other), exported(program, want)), "the control"


def test_a_chunk_gives_what_its_windows_give_one_by_one(program):
    one_by_one, last = advance(program, program.init(), WINDOWS)
    state, report = program.train_steps(program.init(), CHUNK, 0, len(WINDOWS))
    assert equal(exported(program, state), exported(program, one_by_one))
    assert program.fetch(report) == program.fetch(last)


def test_a_report_is_the_mean_of_its_interval_without_skipped_windows(program):
    bad = {**WINDOWS[1], "inputs": np.full_like(WINDOWS[1]["inputs"], np.nan)}
    global_batches = [make_window(num_valid=5), bad, WINDOWS[2]]
    state, each = program.init(), []
    for global_batch in global_batches:
        state, alone = train_step(program, state, global_batch)
        each.append(program.fetch(alone))
        if each[-1].guard.frozen_step:
            state = program.unfreeze(state, each[-1].guard.step)
    state, report = program.init(), None
    for global_batch in global_batches:
        state, report = train_step(program, state, global_batch, report)
        fetched = program.fetch(report)
        if fetched.guard.frozen_step:
            state = program.unfreeze(state, fetched.guard.step)
        report = program.import_report(fetched.sums)  # as a resumed run begins
    assert np.isnan(each[1].metrics["loss"]) and np.isnan(each[1].metrics["grad_norm"])
    first, _, last = (report.metrics for report in each)
    for name, weights in {"loss": (5, 16), "mae": (5, 16), "grad_norm": (1, 1)}.items():
        mean = np.average([first[name], last[name]], weights=weights)
        np.testing.assert_allclose(fetched.metrics[name], mean, rtol=1e-6)
        assert not np.isclose(fetched.metrics[name], last[name]), "not the last step's"


@every_strategy
def test_a_chunk_is_compiled_once_wherever_it_is_cut(strategy):
    program = make_program(strategy, PlainLinear())
    state = program.init()
    for start, count in ((0, 3), (0, 1), (1, 2), (2, 1)):
        state, _ = program.train_steps(state, CHUNK, start, count)
    assert program.num_compilations["train_step"] == 1


def test_large_steps_are_dispatched_one_at_a_time():
    small, large = PlainLinear(), make_model_of_many_operations()
    assert make_program("cpu", small).steps_per_call > 1
    assert make_program("cpu", large).steps_per_call == 1


def make_model_of_many_operations():
    @dataclass(frozen=True)
    class Wide(PlainLinear):
        def predict(self, params, model_state, inputs):
            width = 2**16  # traced, never run
            wide = jnp.ones((inputs.shape[-1], width)) @ jnp.ones((width, width)) / float(width**2)
            return super().predict(params, model_state, inputs) * (inputs @ wide).mean()

    return Wide()


def test_an_export_survives_later_steps(program):
    state, _ = advance(program, program.init(), WINDOWS)
    arrays = program.export_state(state)
    before = on_host(arrays)
    state, _ = advance(program, state, WINDOWS)
    assert equal(on_host(arrays), before)
    assert not equal(exported(program, state), before), "the control"


def test_a_state_is_donated(jax_program):
    state = jax_program.init()
    donated = jax.tree.leaves(state)
    advance(jax_program, state, WINDOWS)
    assert all(leaf.is_deleted() for leaf in donated)


def test_an_import_survives_donation_and_leaves_its_arrays_alone(program):
    arrays = exported(program, program.init())
    before = {path: array.copy() for path, array in arrays.items()}
    advance(program, program.import_state(arrays), WINDOWS)
    assert equal(arrays, before)


def test_import_of_an_export_continues_bit_equal(program):
    state, _ = advance(program, program.init(), WINDOWS)
    arrays = exported(program, state)
    uninterrupted, want = advance(program, state, WINDOWS)
    resumed, have = advance(program, program.import_state(arrays), WINDOWS)
    assert equal(exported(program, resumed), exported(program, uninterrupted))
    assert program.fetch(have) == program.fetch(want)


@pytest.mark.parametrize("field", ["params", "model_state", "opt_state", "base_key", "counters"])
def test_import_without_a_part_of_the_state_continues_otherwise(program, field):
    """The negative control of the test above: every part decides how the run goes on."""
    state, _ = advance(program, program.init(), WINDOWS)
    arrays = exported(program, state)
    uninterrupted, _ = advance(program, state, WINDOWS)
    fresh = exported(program, program.init())
    lost = {path: (fresh if path.startswith(field) else arrays)[path] for path in arrays}
    if field == "base_key":
        lost["base_key"] = lost["base_key"] + 1
    resumed, _ = advance(program, program.import_state(lost), WINDOWS)
    assert not equal(exported(program, resumed), exported(program, uninterrupted))


def test_reports_can_be_fetched_after_later_steps(program):
    state, reports = program.init(), []
    for global_batch in WINDOWS:
        state, report = train_step(program, state, global_batch)
        reports.append(report)
    assert [program.fetch(report).guard.step for report in reports] == [1, 2, 3]


def test_a_skipped_window_is_reported_and_leaves_the_rest_of_the_state(program):
    bad = make_window()
    bad["inputs"][1, 3] = np.nan
    before = exported(program, program.init())
    state, report = train_step(program, program.init(), bad)
    after = exported(program, state)
    assert {path for path in after if not np.array_equal(after[path], before[path])} == {"counters"}
    fetched = program.fetch(report)
    assert fetched.guard[:5] == (1, 1, 1, 1, 1)
    assert np.isnan(fetched.metrics["loss"])


def test_a_state_holds_after_a_bad_window_until_it_is_released(program):
    bad = make_window()
    bad["inputs"][1, 3] = np.nan
    state, report = advance(program, program.init(), [bad, *WINDOWS])
    assert program.fetch(report).guard[:5] == (1, 1, 1, 1, 1)
    held, num_compilations = exported(program, state), program.num_compilations
    state, report = advance(program, program.unfreeze(state, 1), WINDOWS)
    assert program.fetch(report).guard[:5] == (4, 1, 0, 1, 0)
    after = exported(program, state)
    assert not equal(after, held)
    assert program.num_compilations == num_compilations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, leaf: arrays.pop(leaf), "expected a leaf '{leaf}', got none"),
        (
            lambda arrays, leaf: arrays.update({leaf: arrays[leaf][:-1]}),
            r"expected '{leaf}' to be float32\[16\], got float32\[15\]",
        ),
        (
            lambda arrays, leaf: arrays.update({leaf: arrays[leaf].astype(np.float16)}),
            r"expected '{leaf}' to be float32\[16\], got float16\[16\]",
        ),
        (
            lambda arrays, leaf: arrays.update({leaf + "s": arrays[leaf]}),
            "expected no leaf '{leaf}s', got one",
        ),
    ],
    ids=["missing", "shape", "dtype", "extra"],
)
def test_a_state_that_does_not_fit_is_refused_naming_the_leaf(program, change, message):
    leaf = "params/BatchNorm_0/scale"
    arrays = exported(program, program.init())
    program.import_state(arrays)  # as it is, it fits
    change(arrays, leaf)
    with pytest.raises(SnapshotError, match="snapshot: " + message.replace("{leaf}", leaf)):
        program.import_state(arrays)


@every_strategy
def test_each_step_is_compiled_once_over_padded_and_full_windows(strategy):
    program = make_program(strategy, PlainLinear())
    with compiled_functions() as names:
        steps = lambda: sorted(name for name in names if name in ("train_steps", "eval_step"))
        state = program.init()
        for num_valid in (16, 13, 1, 0, 16):
            state, _ = train_step(program, state, make_window(num_valid=num_valid))
        state = program.import_state(program.export_state(state))
        state, _ = train_step(program, state, make_window())
        totals = None
        for num_valid in (8, 3, 8):
            totals = program.eval_step(state, make_batch(num_valid=num_valid), totals)
        assert steps() == ["eval_step", "train_steps"]
        assert program.num_compilations == {"train_step": 1, "eval_step": 1}
        # The control: a window that is cut instead of padded is compiled again, and counted.
        cut = {name: column[:1] for name, column in make_window().items()}
        train_step(program, state, cut)
    assert steps() == ["eval_step", "train_steps", "train_steps"]
    assert program.num_compilations == {"train_step": 2, "eval_step": 1}


def train_and_evaluate(program, state, fetch_every_step=False):
    totals = None
    for global_batch in WINDOWS:
        state, report = train_step(program, state, global_batch)
        if fetch_every_step:
            program.fetch(report)
    program.export_state(state)
    for seed in range(2):
        totals = program.eval_step(state, make_batch(seed), totals)
    return state, report, totals


def test_the_training_loop_neither_waits_nor_reads(jax_program, monkeypatch):
    """jax's transfer guard does not see CPU devices (the GPU test uses it). float(), bool() and
    device_get read a value by one property of jax's arrays; NumPy may read their memory itself.
    """
    program = jax_program
    kind, asked, stalls = type(jnp.zeros(())), [], []
    read, wait, convert = kind._value, jax.block_until_ready, np.asarray

    def record_array(value, *rest, **options):
        if isinstance(value, jax.Array):
            asked.append("asarray")
        return convert(value, *rest, **options)

    recorded = property(lambda array: (asked.append("read"), read.fget(array))[1])
    monkeypatch.setattr(kind, "_value", recorded)
    monkeypatch.setattr(np, "asarray", record_array)
    monkeypatch.setattr(jax, "block_until_ready", lambda x: (stalls.append(x), wait(x))[1])
    _, newest, _ = train_and_evaluate(program, program.init())
    assert asked == []

    def only_old_reports():
        """A call may be waited for when two have followed it: the device always has the next."""
        kinds = {type(one) for one in stalls}
        return kinds <= {type(newest)} and all(one is not newest for one in stalls)

    assert only_old_reports() and len(stalls) <= len(WINDOWS)
    jax.block_until_ready(newest)
    assert not only_old_reports(), "the control"
    train_and_evaluate(program, program.init(), fetch_every_step=True)
    assert asked.count("asarray") == 2 * len(WINDOWS), "the control"
    before = len(asked)
    float(jnp.ones(()))
    assert len(asked) > before, "the control of what is read unasked"


@pytest.mark.parametrize(
    ("name", "size"),
    covering_rows([("cpu", 1), ("mesh2", 2), ("mesh8", 8)], default=[("mesh2", 2)]),
)
def test_a_micro_batch_is_split_over_the_devices_and_the_state_is_whole_on_each(name, size):
    program = program_of(name, PlainLinear())
    state, global_batch = program.init(), make_window()
    chunk = {name: column[None] for name, column in global_batch.items()}
    executable = program._train_steps.lower(state, chunk, 0, 1, program.no_rows).compile()
    state_shardings, chunk_shardings, *_ = executable.input_shardings[0]
    for column in ("inputs", "labels", "mask"):
        sharding, shape = chunk_shardings[column], chunk[column].shape
        assert sharding.shard_shape(shape) == (1, 2, MICRO_BATCH // size, *shape[3:])
        rows = {
            index[2].indices(MICRO_BATCH) for index in sharding.devices_indices_map(shape).values()
        }
        assert len(rows) == sharding.num_devices == size
    whole = [sharding.is_fully_replicated for sharding in jax.tree.leaves(state_shardings)]
    assert whole and all(whole)
    # What each device computes on, and that the sums are taken over all of them.
    text = executable.as_text()
    assert f"f32[1,2,{MICRO_BATCH // size},6]" in text
    assert ("all-reduce" in text) == (size > 1)
    stepped, _ = train_step(program, state, global_batch)
    shards = jax.tree.leaves(stepped.params)[0].addressable_shards
    assert [shard.device for shard in shards] == jax.devices()[:size]
    assert all(np.array_equal(shard.data, shards[0].data) for shard in shards)


@pytest.mark.parametrize(
    "name", covering([name for name in STRATEGIES if name != "cpu"], default=["fsdp8"])
)
def test_a_mesh_gives_the_parameters_of_one_device(name):
    global_batches = [*WINDOWS, make_window(seed=3, num_valid=5)]
    states = {}
    for each in ("cpu", name):
        program = program_of(each)
        state, _ = advance(program, program.init(), global_batches)
        states[each] = exported(program, state)
    for path, want in states["cpu"].items():
        np.testing.assert_allclose(states[name][path], want, rtol=0, atol=1e-5, err_msg=path)
    # The control: one example more in the last window is more than that.
    program = program_of("cpu")
    other, _ = advance(program, program.init(), [*WINDOWS, make_window(seed=3, num_valid=6)])
    other = exported(program, other)["params/Dense_0/kernel"]
    assert abs(other - states["cpu"]["params/Dense_0/kernel"]).max() > 1e-4


def test_a_state_moves_from_one_device_to_a_mesh():
    one, mesh = program_of("cpu"), program_of("mesh8")
    state, _ = advance(one, one.init(), WINDOWS)
    arrays = exported(one, state)
    moved = mesh.import_state(arrays)
    assert len(moved.counters.devices()) == 8
    assert equal(exported(mesh, moved), arrays)


@dataclass(frozen=True)
class NamedMetrics(PlainLinear):
    train_metric: str = "mae"

    def loss(self, params, model_state, batch, rng, train):
        loss, metrics = squared_error(self.predict(params, model_state, batch["inputs"]), batch)
        metrics = {self.train_metric: metrics["mae"]} if train else {"a": loss, **metrics}
        return LossOutput(*loss, metrics, model_state)


def test_training_and_evaluation_may_report_different_metrics():
    program = make_program("cpu", NamedMetrics(train_metric="z"))
    state, report = train_step(program, program.init(), make_window())
    assert list(program.fetch(report).metrics) == ["loss", "grad_norm", "z"]
    evaluated = program.fetch(program.eval_step(state, make_batch())).metrics
    assert list(evaluated) == ["loss", "a", "mae"]
    assert evaluated["a"] == evaluated["loss"] != evaluated["mae"]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_metric_that_would_hide_one_of_ours_is_refused(name):
    message = f"metrics: expected names other than loss and grad_norm, got '{name}'"
    with pytest.raises(AetheriaError, match=message):
        make_program("cpu", NamedMetrics(train_metric=name))


@dataclass(frozen=True)
class OtherOptimizer(PlainLinear):
    name: str = ""

    def optimizer(self, total_steps):
        return {
            "keeps the parameters": optax.contrib.schedule_free_sgd(0.05),
            "holds hyperparameters": optax.inject_hyperparams(optax.adam)(learning_rate=0.05),
        }[self.name]


@pytest.mark.parametrize("name", ["keeps the parameters", "holds hyperparameters"])
def test_an_optimizer_with_a_state_of_its_own_kind_trains_and_resumes(name):
    program = make_program("cpu", OtherOptimizer(name=name))
    state, _ = advance(program, program.init(), WINDOWS)
    arrays = exported(program, state)
    uninterrupted, _ = advance(program, state, WINDOWS)
    resumed, _ = advance(program, program.import_state(arrays), WINDOWS)
    assert equal(exported(program, resumed), exported(program, uninterrupted))
    assert program.num_compilations["train_step"] == 1


def test_parameters_of_weak_type_become_strong():
    program = program_of("cpu", PlainLinear())
    assert jnp.full((), 0.1).weak_type  # what the model begins with
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(program.init().params))
