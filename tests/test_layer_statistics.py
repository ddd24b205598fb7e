"""Statistics of layers: what they are, that they move no bit, and that a skipped step has none."""

import importlib.util

import numpy as np
import pytest
from aetheria.models.transformer import Transformer
from support.models import LinenNormed
from support.programs import make_spec, train_step
from support.runs import DIGITS

import aetheria
from aetheria.cli.main import main
from aetheria.engine.interfaces import SingleProcess
from aetheria.errors import ConfigError
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.program_spec import LayerStatistics
from aetheria.training.summary import print_table

KINDS = ("grad_norm", "update_norm", "param_norm", "update_ratio")
STRATEGIES = {
    "cpu": ("cpu", {}, False),
    "fsdp": ("mesh", {"fsdp": 2}, False),
    "elastic": ("mesh", {"data": 2}, True),
}
WITH_TORCH = [*STRATEGIES, *(["torch"] if importlib.util.find_spec("torch") else [])]
NORMED = ("BatchNorm_0/bias", "BatchNorm_0/scale")
PATHS = ("Dense_0/kernel", *NORMED, "Dense_1/bias", "Dense_1/kernel")
ASKED = LayerStatistics(depth=2, every_steps=2, num_bins=8)


def make_window(seed, fill=None):
    inputs = np.random.default_rng(seed).normal(size=(2, 8, 6)).astype(np.float32)
    labels = inputs[..., :1].copy()
    inputs = inputs if fill is None else np.full_like(inputs, fill)
    return {"inputs": inputs, "labels": labels, "mask": np.ones((2, 8), np.float32)}


def make_program(strategy, asked=ASKED, model=None, window=None):
    spec = make_spec(window or make_window(0), layer_statistics=asked)
    if strategy == "torch":
        from support.torch_models import Twinned

        from aetheria.hardware.torch.strategy import select_torch_strategy

        alone = select_torch_strategy({}, SingleProcess(), host="", listen=None, device_ids=None)
        return alone.compile(model or Twinned(), spec)
    name, mesh, elastic = STRATEGIES[strategy]
    return select_strategy(name, mesh, elastic=elastic).compile(model or LinenNormed(), spec)


def exported(program, state):
    return {path: np.array(leaf) for path, leaf in program.export_state(state).items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        leaf.tobytes() == other[path].tobytes() for path, leaf in one.items()
    )


def two_steps(program):
    """Takes two steps; returns the states around the second, and the report after each."""
    with program.loop_context():  # a transfer in a step is an error here
        state, first = train_step(program, program.init(), make_window(1))
    before = exported(program, state)
    with program.loop_context():
        state, interval = train_step(program, state, make_window(2), first)
    assert set(program.num_compilations.values()) <= {0, 1}
    return before, exported(program, state), program.fetch(first), program.fetch(interval)


@pytest.mark.parametrize("strategy", WITH_TORCH)
def test_they_are_of_the_logged_step_alone_and_move_no_bit(strategy):
    before, after, first, found = two_steps(make_program(strategy))
    _, plain, _, reported = two_steps(make_program(strategy, None))
    assert same_bits(after, plain) and not same_bits(after, before), "the second is the control"
    assert found.metrics == reported.metrics and found.sums == reported.sums
    assert not (first.layers or first.histograms or reported.layers or reported.histograms)
    squares = 0.0
    for path in PATHS:
        grad, update, param = (found.layers[f"layers/{path}/{kind}"] for kind in KINDS[:3])
        old, new = (leaves[f"params/{path}"].astype(np.float64) for leaves in (before, after))
        assert update == pytest.approx(np.linalg.norm(new - old), rel=1e-3)
        assert param == pytest.approx(np.linalg.norm(old), rel=1e-5, abs=1e-7)
        assert found.layers[f"layers/{path}/update_ratio"] == pytest.approx(update / param)
        histogram = found.histograms[f"updates/{path}"]
        assert sum(histogram.counts) == old.size
        if old.size > 1:
            counts, edges = np.histogram(new - old, 8)
            np.testing.assert_allclose(histogram.edges, edges, rtol=1e-3, atol=1e-6)
            assert np.abs(np.subtract(histogram.counts, counts)).sum() <= 2
        squares += grad**2
    # The gradient norm of the second step: the report has the mean of both.
    mean, of_first = found.metrics["grad_norm"], first.metrics["grad_norm"]
    assert np.sqrt(squares) == pytest.approx(2 * mean - of_first, rel=1e-4)


def test_layers_that_a_model_stacks_are_taken_apart_and_pytorch_has_the_same():
    tokens = np.random.default_rng(0).integers(0, 8, (2, 4, 5)).astype(np.int32)
    window = {"inputs": tokens[..., :-1], "labels": tokens[..., 1:], "mask": np.ones((2, 4), "f4")}
    model = Transformer(vocab_size=8, num_layers=2, width=8, num_heads=2, max_length=4)
    asked = LayerStatistics(depth=2, every_steps=1, num_bins=4)
    found = []
    for strategy in ("cpu", *WITH_TORCH[3:]):
        program = make_program(strategy, asked, model, window)
        _, report = train_step(program, program.init(), window)
        report = program.fetch(report)
        grads = {name: v for name, v in report.layers.items() if name.endswith("/grad_norm")}
        assert {"layers/blocks/0/grad_norm", "layers/blocks/1/grad_norm"} < grads.keys()
        squares = sum(value**2 for value in grads.values())
        assert np.sqrt(squares) == pytest.approx(report.metrics["grad_norm"], rel=1e-5)
        found.append(report)
    assert found[0].layers["layers/blocks/0/grad_norm"] != grads["layers/blocks/1/grad_norm"]
    assert found[0].layers == pytest.approx(found[-1].layers, rel=1e-3)
    for name, histogram in found[0].histograms.items():
        np.testing.assert_allclose(histogram.counts, found[-1].histograms[name].counts, atol=2)


@pytest.mark.parametrize("strategy", [name for name in WITH_TORCH if name in ("cpu", "torch")])
def test_a_skipped_step_has_none(strategy):
    program = make_program(strategy, LayerStatistics(depth=1, every_steps=1))
    state, report = train_step(program, program.init(), make_window(0, np.nan))
    assert program.fetch(report).layers == {}
    state = program.unfreeze(state, 1)
    _, report = train_step(program, state, make_window(0))
    assert program.fetch(report).layers["layers/Dense_0/grad_norm"] > 0


def test_what_is_not_asked_for_is_not_in_the_program():
    plain, asked = make_program("cpu", None), make_program("cpu")
    size = lambda program: len(str(program.trace_train_step().jaxpr))
    assert plain.train_rows == ("loss", "grad_norm", "mae") == asked.train_rows[:3]
    assert size(plain) < size(asked)


@pytest.fixture(scope="module")
def run(train_once):
    params = {**DIGITS["model_params"], "metrics": ["confusion"]}
    asked = {"layer_statistics": {"depth": 1}, "log_every_steps": 5, "max_steps": 12}
    return train_once("run", model_params=params, **asked)


def test_a_run_logs_them_as_metrics_and_ends_without_them(run):
    reports = [line for line in run.metrics if line["split"] == "train"]
    names = {f"layers/{layer}/{kind}" for layer in ("Dense_0", "Dense_1") for kind in KINDS}
    assert [line["step"] for line in reports] == [5, 10]
    for line in reports:
        found = {name: value for name, value in line.items() if name.startswith("layers/")}
        assert found.keys() == names and min(found.values()) > 0
    assert not [name for name in run.summary["final"] if "layers/" in name]


def test_a_page_shows_layers_apart_and_the_confusion_matrix_as_a_table(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(run.run_dir), "--html", str(page)]) == 0
    text = page.read_text()
    training, layers = text.index("<h3>Training and evaluation</h3>"), text.index("<h3>Layers</h3>")
    assert training < layers < text.index(">layers/Dense_0/grad_norm</h4>")
    assert "confusion_" not in text
    row = [run.summary["final"][f"eval/confusion_3_{taken}"] for taken in range(10)]
    cells = "".join(f"<td>{count:g}</td>" for count in row)
    assert f'<th scope="row">3</th>{cells}' in text.partition('id="confusion-matrix"')[2]
    capsys.readouterr()
    print_table(run.summary, run.run_dir)
    out = capsys.readouterr().out
    assert "eval/accuracy" in out and "confusion" not in out


def test_histograms_without_a_depth_are_refused_in_one_line(tmp_path):
    config = {**DIGITS, "layer_statistics": {"histograms": True}}
    with pytest.raises(ConfigError, match=r"layer_statistics.depth: expected 1 or more with layer"):
        aetheria.train(config, workdir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
