"""Statistics of layers: what they are, that they move no bit, and that a skipped step has none."""

import importlib.util

import numpy as np
import pytest
from support.models import LinenNormed
from support.programs import make_spec, train_step
from support.runs import DIGITS

import aetheria
from aetheria.engine.interfaces import SingleProcess
from aetheria.errors import ConfigError
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.program_spec import LayerStatistics
from aetheria.snapshots import read_snapshot

LAYERS = ("Dense_0", "Dense_1")
KINDS = ("grad_norm", "update_norm", "param_norm", "update_ratio")
ASKED = {"layer_statistics": {"depth": 1, "histograms": True}, "log_every_steps": 5}
SHORT = {**DIGITS, "max_steps": 12, "eval_every_steps": 6, "loggers": []}
STRATEGIES = {
    "cpu": {"strategy": "cpu"},
    "fsdp": {"strategy": "mesh", "mesh": {"fsdp": 2}},
    "elastic": {"strategy": "mesh", "mesh": {"data": 2}, "reproducibility": "elastic"},
    "torch": {"strategy": "torch"},
}
if importlib.util.find_spec("torch") is None:
    del STRATEGIES["torch"]


class Keeper:
    """Keeps the reports of training."""

    def __init__(self):
        self.reports = []

    def notify(self, event):
        if isinstance(event, aetheria.events.TrainMetrics):
            self.reports.append(event)


@pytest.fixture(scope="module", params=STRATEGIES)
def runs(request, tmp_path_factory):
    """A run with statistics and one without."""
    folder, found = tmp_path_factory.mktemp("layers"), []
    for name, changes in {"with": ASKED, "without": {"log_every_steps": 5}}.items():
        keeper = Keeper()
        config = {**SHORT, **STRATEGIES[request.param], **changes}
        found.append((aetheria.train(config, callbacks=[keeper], workdir=folder / name), keeper))
    return found


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        np.asarray(leaf).tobytes() == np.asarray(other[path]).tobytes()
        for path, leaf in one.items()
    )


def test_they_move_no_bit(runs):
    (with_them, kept), (without, plain) = runs
    arrays = [read_snapshot(run.snapshot).arrays for run in (with_them, without)]
    assert same_bits(*arrays)
    bias = np.nextafter(np.asarray(arrays[0]["params/Dense_0/bias"]), np.float32(1))
    assert not same_bits({**arrays[0], "params/Dense_0/bias": bias}, arrays[1]), "the control"
    own = [[name for name in e.metrics if not name.startswith("layers/")] for e in kept.reports]
    assert own == [list(event.metrics) for event in plain.reports]
    for event, other in zip(kept.reports, plain.reports, strict=True):
        assert {name: event.metrics[name] for name in other.metrics} == other.metrics
        assert not other.histograms


def test_each_logged_step_has_those_of_each_layer(runs):
    (result, kept), _ = runs
    assert [event.progress.step for event in kept.reports] == [5, 10]
    names = {f"layers/{layer}/{kind}" for layer in LAYERS for kind in KINDS}
    for event in kept.reports:
        found = {n: v for n, v in event.metrics.items() if n.startswith("layers/")}
        assert found.keys() == names
        assert set(event.histograms) == {
            f"{k}/{n}" for k in ("gradients", "updates") for n in LAYERS
        }
        for layer in LAYERS:
            grad, update, param, ratio = (found[f"layers/{layer}/{kind}"] for kind in KINDS)
            assert ratio == pytest.approx(update / param)
            assert min(grad, update, param) > 0
    assert not [name for name in result.metrics if "layers/" in name]


DEPTH_2 = (
    "Dense_0/kernel",
    "BatchNorm_0/bias",
    "BatchNorm_0/scale",
    "Dense_1/bias",
    "Dense_1/kernel",
)


def make_window(seed, fill=None):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2, 8, 6)).astype(np.float32)
    labels = inputs[..., :1].copy()
    inputs = inputs if fill is None else np.full_like(inputs, fill)
    return {"inputs": inputs, "labels": labels, "mask": np.ones((2, 8), np.float32)}


def make_program(strategy, **changes):
    asked = LayerStatistics(depth=2, every_steps=2, num_bins=8)
    spec = make_spec(make_window(0), **{"layer_statistics": asked, **changes})
    if strategy == "torch":
        from support.torch_models import Twinned

        from aetheria.hardware.torch.strategy import select_torch_strategy

        alone = select_torch_strategy({}, SingleProcess(), host="", listen=None, device_ids=None)
        return alone.compile(Twinned(), spec)
    options = STRATEGIES[strategy]
    elastic = options.get("reproducibility") == "elastic"
    chosen = select_strategy(options["strategy"], options.get("mesh", {}), elastic=elastic)
    return chosen.compile(LinenNormed(), spec)


def params_of(program, state):
    arrays = program.export_state(state)
    named = {p.removeprefix("params/"): np.asarray(a) for p, a in arrays.items() if "params/" in p}
    return {path: named[path].astype(np.float64) for path in DEPTH_2}


@pytest.fixture(params=STRATEGIES)
def program(request):
    return make_program(request.param)


def test_they_are_of_the_step_that_is_logged_alone(program):
    with program.loop_context():  # a transfer in a step is an error here
        state, first = train_step(program, program.init(), make_window(1))
    assert program.fetch(first).layers == program.fetch(first).histograms == {}
    old = params_of(program, state)
    with program.loop_context():
        state, interval = train_step(program, state, make_window(2), first)
    new, found = params_of(program, state), program.fetch(interval)
    assert set(program.num_compilations.values()) <= {0, 1}
    squares = 0.0
    for path in DEPTH_2:
        grad, update, param = (found.layers[f"layers/{path}/{kind}"] for kind in KINDS[:3])
        change = new[path] - old[path]
        assert update == pytest.approx(np.linalg.norm(change), rel=1e-3)
        assert param == pytest.approx(np.linalg.norm(old[path]), rel=1e-5, abs=1e-7)
        assert found.layers[f"layers/{path}/update_ratio"] == pytest.approx(update / param)
        counts, edges = np.histogram(change, 8)
        histogram = found.histograms[f"updates/{path}"]
        if change.size > 1:
            np.testing.assert_allclose(histogram.edges, edges, rtol=1e-3, atol=1e-6)
            assert np.abs(np.subtract(histogram.counts, counts)).sum() <= 2
        assert sum(histogram.counts) == change.size
        squares += grad**2
    # The gradient norm of the second step: the mean of both is reported.
    norms = [program.fetch(report).metrics["grad_norm"] for report in (first, interval)]
    assert np.sqrt(squares) == pytest.approx(2 * norms[1] - norms[0], rel=1e-4)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "fsdp"])
def test_a_skipped_step_has_none(strategy):
    program = make_program(strategy, layer_statistics=LayerStatistics(depth=1, every_steps=1))
    state, report = train_step(program, program.init(), make_window(0, np.nan))
    assert program.fetch(report).layers == {}
    state = program.unfreeze(state, 1)
    _, report = train_step(program, state, make_window(0))
    assert program.fetch(report).layers["layers/Dense_0/grad_norm"] > 0


def test_what_is_not_asked_for_is_not_in_the_program():
    plain, asked = make_program("cpu", layer_statistics=None), make_program("cpu")
    size = lambda program: len(str(program.trace_train_step().jaxpr))
    assert plain.train_rows == ("loss", "grad_norm", "mae") == asked.train_rows[:3]
    assert size(plain) < size(asked)


def test_histograms_without_a_depth_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"layer_statistics.depth: expected 1 or more with hist"):
        aetheria.train({**SHORT, "layer_statistics": {"histograms": True}})
