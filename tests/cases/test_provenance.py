"""What a run was made of is in its snapshots, and what has changed since is said on resume."""

import ast
import gc
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from aetheria.build import RunOptions, build_run
from aetheria.cli.main import main
from aetheria.config import make_config
from aetheria.engine.typed_json import to_json
from aetheria.errors import AetheriaError, SnapshotError
from aetheria.hardware.jax import environment
from aetheria.inference import Predictor
from aetheria.plugins import code
from aetheria.snapshots.run_plan import RunPlan
from aetheria.snapshots.snapshot_files import read_snapshot

PROJECT = Path(__file__).parent / "provenance_project"
MODEL, PARTS, DATA, CALLBACK = (
    "models/linear.py",
    "models/parts.py",
    "data/rows.py",
    "callbacks/listening.py",
)


@dataclass(frozen=True)
class Trained:
    """A run of two steps, and how to go on from it elsewhere."""

    folder: Path
    config: dict[str, Any]
    snapshot: Path

    def project(self, tmp_path: Path, edits: dict[str, tuple[str, str]]) -> Path:
        """A copy of the project with each of these files edited: file -> text, other text."""
        copy = tmp_path / "project"
        shutil.copytree(PROJECT, copy)
        for name, (old, new) in edits.items():
            text = (copy / name).read_text()
            assert old in text, (name, old)
            (copy / name).write_text(text.replace(old, new))
        return copy

    def resume(
        self,
        project: Path,
        *,
        accept: bool = False,
        record: Callable[[Any], Any] = lambda record: record,
        **changes: Any,
    ) -> tuple[str, ...]:
        """What is said when the run goes on, which is not computed here."""
        snapshot = read_snapshot(self.snapshot)
        plan = RunPlan(
            run_dir=self.folder / "run",
            snapshot=snapshot._replace(
                record=replace(snapshot.record, run=record(snapshot.record.run))
            ),
        )
        config = make_config({**self.config, **changes}, "test")
        return build_run(config, plan, project, options=RunOptions(accept_changes=accept)).changes

    def refusal(self, *arguments: Any, **options: Any) -> list[str]:
        with pytest.raises(SnapshotError) as caught:
            self.resume(*arguments, **options)
        return list(caught.value.problems)


def save_rows(folder: Path, inputs: np.ndarray) -> None:
    np.savez(folder / "rows.npz", inputs=inputs, labels=inputs.sum(1))


def make_rows(count: int = 1797) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def start(folder: Path, project: Path = PROJECT, **changes: Any) -> Trained:
    save_rows(folder, make_rows())
    config = {
        "model_name": "Linear",
        "data_name": "rows",
        "data_params": {"folder": str(folder)},
        "strategy": "cpu",
        "max_steps": 2,
        "loggers": [],
        "callbacks": ["listening"],
        **changes,
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    run = folder / "run"
    assert main(["train", str(file), "--project", str(project), "--workdir", str(run)]) == 0
    (snapshot,) = (run / "checkpoints").iterdir()
    return Trained(folder, config, snapshot)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return start(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def rows(trained: Trained):
    """Where the run's data lie, put back afterwards."""
    yield trained.folder
    save_rows(trained.folder, make_rows())


def test_nothing_changed_nothing_is_said(trained, tmp_path):
    assert trained.resume(PROJECT) == ()
    assert trained.resume(trained.project(tmp_path, {})) == ()  # the project was moved


def test_config_json_and_record_hold_what_was_resolved(trained):
    config = json.loads((trained.folder / "run" / "config.json").read_text())
    record = read_snapshot(trained.snapshot).record.run
    assert config["resolved"] == to_json(record.resolved)
    assert config["resolved"] == {
        "model_params": {
            "width": 4,
            "scale": 1.0,
            "shape": [2, 2],
            "learning_rate": 0.1,
            "activation": {"__repr__": "tanh"},
        },
        "data_params": {"folder": str(trained.folder), "kind": "array", "offset": 0.0},
        "loggers": {},
        "callbacks": {"listening": {"patience": 3}},
    }
    assert make_config(record.config, "record").model_params == {}
    details = json.loads((trained.folder / "run" / "provenance.json").read_text())
    assert details == to_json(record.provenance)
    assert details["settings"]["JAX_ENABLE_X64"] is False
    assert details["settings"]["JAX_DEFAULT_PRNG_IMPL"] == "threefry2x32"
    assert details["settings"]["XLA_FLAGS"] == ""
    assert {"processor", "instruction_sets", "platform", "device"} <= details["machine"].keys()
    assert details["data"]["train"]["num_examples"] == 1797
    assert details["code"]["model"]["file"] == MODEL
    assert details["code"]["model"]["imports"].keys() == {PARTS}


DEFAULTS = {
    "a number": (
        MODEL,
        "scale: float = 1.0",
        "scale: float = 2.0",
        "model_params.scale",
        "(1.0)",
        "2.0",
    ),
    "one that decides shapes": (
        MODEL,
        "width: int = 4",
        "width: int = 8",
        "model_params.width",
        "(4)",
        "8",
    ),
    "a tuple": (MODEL, "= (2, 2)", "= (2, 3)", "model_params.shape", "([2, 2])", "[2, 3]"),
    "a function": (
        MODEL,
        "= jnp.tanh",
        "= jax.nn.relu",
        "model_params.activation",
        "(tanh)",
        "relu",
    ),
    "a short key": (
        MODEL,
        "learning_rate: float = 0.1",
        "learning_rate: float = 0.5",
        " learning_rate ",
        "(0.1)",
        "0.5",
    ),
    "a new one": (
        MODEL,
        "width: int = 4\n",
        "width: int = 4\n    deep: bool = True\n",
        "model_params.deep",
        "(nothing)",
        "true",
    ),
    "one that is gone": (
        MODEL,
        "    shape: tuple = (2, 2)\n",
        "",
        "model_params.shape",
        "([2, 2])",
        "nothing",
    ),
    "of the data": (DATA, "offset: float = 0.0", "offset: float = 0", "", "", ""),
    "of the data, another": (
        DATA,
        'kind: str = "array"',
        'kind: str = "records"',
        "data_params.kind",
        '("array")',
        '"records"',
    ),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_a_changed_default_is_refused_by_name(trained, tmp_path, case):
    file, old, new, path, before, now = DEFAULTS[case]
    project = trained.project(tmp_path, {file: (old, new)})
    if not path:  # the same number in another spelling: only the code has changed
        assert trained.resume(project) == (
            f"changed since the snapshot: code of data: another {file}",
        )
        return
    problems = trained.refusal(project)
    assert path in f" {problems[0]} "
    assert f"as in the snapshot {before}, got {now} (the default" in problems[0]
    assert f"the default changed in {file}" in problems[0]
    assert "--accept-changes" in problems[0]
    assert len(problems) == 1


def test_what_is_accepted_is_said_all_the_same_and_a_state_that_does_not_fit_is_not(
    trained, tmp_path
):
    project = trained.project(tmp_path, {MODEL: ("scale: float = 1.0", "scale: float = 2.0")})
    lines = trained.resume(project, accept=True)
    assert "model_params.scale: 1.0 -> 2.0 (the default changed in models/linear.py)" in lines[0]
    wider = trained.project(tmp_path / "wider", {MODEL: ("width: int = 4", "width: int = 8")})
    with pytest.raises(SnapshotError, match="expected 'params/first' to be"):
        trained.resume(wider, accept=True)


def test_a_changed_default_is_no_matter_where_the_config_says_the_value(trained, tmp_path):
    edit = {MODEL: ("scale: float = 1.0", "scale: float = 2.0")}
    project = trained.project(tmp_path, edit)
    for params in ({"scale": 1.0}, {"scale": 1}):
        (line,) = trained.resume(project, model_params=params)
        assert "code of model: another models/linear.py" in line
    # What the config now names was the default, so nothing changed at all.
    assert trained.resume(PROJECT, model_params={"width": 4}, learning_rate=0.1) == ()
    (problem,) = trained.refusal(PROJECT, model_params={"width": 5}, accept=True)
    assert "expected model_params.width as in the snapshot (4), got 5; start a new run" in problem
    (problem,) = trained.refusal(PROJECT, learning_rate=0.2)
    assert "expected learning_rate as in the snapshot (0.1), got 0.2; add --accept" in problem


def test_a_field_that_a_factory_leaves_to_the_class_counts(tmp_path):
    made = start(tmp_path, model_name="MadeLinear")
    assert made.resume(PROJECT) == ()
    project = made.project(tmp_path / "b", {MODEL: ("scale: float = 1.0", "scale: float = 2.0")})
    (problem,) = made.refusal(project)
    assert "expected model.scale as in the snapshot (1.0), got 2.0" in problem


CODE = {
    "a comment of the model": ({MODEL: ("# The hyper", "# Our hyper")}, ["code of model", MODEL]),
    "a file it imports": (
        {PARTS: ("Imported by", "Used by")},
        ["imported by model", PARTS],
    ),
    "the data": ({DATA: ("Another value", "A value")}, ["code of data", DATA]),
    "a callback": ({CALLBACK: ("pass", "...")}, ["code of callbacks.listening", CALLBACK]),
    "a callback's default": (
        {CALLBACK: ("patience: int = 3", "patience: int = 4")},
        ["callbacks.listening.patience: 3 -> 4 (the default changed", CALLBACK],
    ),
    "what nobody uses": ({"models/other.py": ("nobody's", "no one's")}, None),
}


@pytest.mark.parametrize("case", CODE)
def test_changed_code_is_named_and_not_refused(trained, tmp_path, case):
    edits, words = CODE[case]
    lines = trained.resume(trained.project(tmp_path, edits))
    if words is None:
        assert lines == ()
        return
    for word in words:
        assert word in lines[0], lines


OWN = """
from aetheria import register_model
from aetheria.models.mlp import SimpleMLP

@register_model("Own")
class Own(SimpleMLP): ...
"""
OWN_TORCH = """
from aetheria.models.mlp_torch import Twin
from aetheria.pytorch import register_counterpart
from .own import Own

@register_counterpart(Own)
def make(model, example_batch):
    return Twin(model, example_batch["inputs"].shape[-1])
"""


def test_changed_code_of_a_pytorch_counterpart_is_named(tmp_path):
    pytest.importorskip("torch")
    projects = [tmp_path / "before", tmp_path / "after"]
    for project, comment in zip(projects, ("", "# Changed."), strict=True):
        (project / "models").mkdir(parents=True)
        (project / "models" / "own.py").write_text(OWN)
        (project / "models" / "own_torch.py").write_text(OWN_TORCH + comment)
    own: dict[str, Any] = {"model_name": "Own", "callbacks": []}
    own |= {"data_name": "diabetes", "data_params": {}}
    trained = start(tmp_path, projects[0], strategy="torch", **own)
    assert trained.resume(projects[0]) == ()
    (line,) = trained.resume(projects[1])
    assert "code of counterpart: another models/own_torch.py" in line


SETTINGS = {
    "jax_enable_x64": True,
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 3,
    "jax_default_matmul_precision": "highest",
    "jax_numpy_dtype_promotion": "strict",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_jax_that_changes_numbers_is_refused(trained, name):
    before = getattr(jax.config, name)
    jax.config.update(name, SETTINGS[name])
    try:
        (problem,) = trained.refusal(PROJECT)
    finally:
        jax.config.update(name, before)
    assert f"expected {name.upper()} as in the snapshot" in problem
    assert "set it as it was, or add --accept-changes" in problem
    assert trained.resume(PROJECT) == ()


VARIABLES = {
    "XLA_FLAGS": ("--xla_cpu_enable_fast_math=true", True),
    "NVIDIA_TF32_OVERRIDE": ("0", True),
    "CUBLAS_WORKSPACE_CONFIG": (":4096:8", True),
    "XLA_FLAGS of devices": ("--xla_force_host_platform_device_count=4 --xla_dump_to=x", False),
    "TZ": ("UTC", False),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_a_variable_that_changes_numbers_is_refused(trained, monkeypatch, case):
    name, (value, matters) = case.split()[0], VARIABLES[case]
    monkeypatch.setenv(name, value)
    if not matters:
        assert trained.resume(PROJECT) == ()
        return
    (problem,) = trained.refusal(PROJECT)
    assert f"expected {name} as in the snapshot" in problem
    assert value in problem
    (line,) = trained.resume(PROJECT, accept=True)
    assert name in line


def test_another_processor_or_version_is_named(trained, monkeypatch):
    info = {"model name": "Abacus", "flags": "avx avx512f sse"}
    monkeypatch.setattr(environment, "_read_cpu_info", lambda: info)
    lines = trained.resume(PROJECT, record=_with_version)
    text = "\n".join(lines)
    assert '-> "Abacus" (results may differ in their last bits)' in text
    assert '-> ["avx", "avx512f"]' in text
    assert 'versions.jax: "0.0.1" ->' in text
    assert len(lines) == 3


def _with_version(record):
    return replace(record, versions={**record.versions, "jax": "0.0.1"})


def _one(rows: np.ndarray, index: int) -> np.ndarray:
    rows[index] += 1
    return rows


CHANGED_ROWS = {
    "grew": (
        lambda rows: make_rows(1800),
        "data.train as in the snapshot (1797 examples), got 1800",
    ),
    "shrank": (lambda rows: rows[:-1], "data.train as in the snapshot (1797 examples), got 1796"),
    "one value": (
        lambda rows: _one(rows, 700),
        "data.train as in the snapshot, got other values in rows 6",
    ),
    "the last": (lambda rows: _one(rows, 1796), "to 1796;"),
    "order": (lambda rows: rows[::-1], "in 63 other places"),
    "a column": (
        lambda rows: rows[:, :2],
        "data.train.inputs as in the snapshot (float32[3]), got float32[2]",
    ),
    "nothing": (lambda rows: rows, None),
}


@pytest.mark.parametrize("case", CHANGED_ROWS)
def test_data_that_changed_are_refused(trained, rows, case):
    change, words = CHANGED_ROWS[case]
    save_rows(rows, change(make_rows()))
    if words is None:
        assert trained.resume(PROJECT) == ()
        return
    problems = trained.refusal(PROJECT)
    assert words in problems[0]
    assert "bring back the data of then, or add --accept-changes" in problems[0]
    if case != "a column":
        assert "data.train" in trained.resume(PROJECT, accept=True)[0]


@pytest.mark.parametrize("kind", ["records", "augmented"])
def test_data_that_are_read_one_by_one(tmp_path, kind):
    run = start(tmp_path, data_params={"folder": str(tmp_path), "kind": kind})
    assert run.resume(PROJECT) == ()
    print_ = read_snapshot(run.snapshot).record.run.provenance.data["train"]
    assert print_.random == (kind == "augmented")
    save_rows(tmp_path, _one(make_rows(), 1796))  # the last row is always in the sample
    if kind == "records":
        assert "got other values in row 1796;" in run.refusal(PROJECT)[0]
    else:
        assert run.resume(PROJECT) == ()  # only its size and shapes can be known
    save_rows(tmp_path, make_rows(1790))
    assert "1797 examples), got 1790" in run.refusal(PROJECT)[0]


def test_a_snapshot_of_an_older_release_goes_on(trained, tmp_path):
    def older(record):
        return replace(record, resolved=None, provenance=None)

    assert trained.resume(PROJECT, record=older) == ()
    project = trained.project(tmp_path, {MODEL: ("scale: float = 1.0", "scale: float = 2.0")})
    assert trained.resume(project, record=older) == ()  # it cannot be known
    (problem,) = trained.refusal(PROJECT, record=older, model_params={"width": 4})
    assert "expected model_params as in the snapshot ({}), got {'width': 4}" in problem
    (problem,) = trained.refusal(PROJECT, record=older, learning_rate=0.1)
    assert "expected learning_rate as in the snapshot (None), got 0.1" in problem


def test_predictions_do_not_change_with_a_default(trained, tmp_path):
    inputs = make_rows(5)
    expected = Predictor(checkpoint_path=trained.snapshot, project=PROJECT).predict(inputs)
    text = "scale: float = 1.0\n    shape: tuple = (2, 2)"
    for number, new in enumerate(["scale: float = 2.0", "scale: float = 2.0\n    width: int = 8"]):
        project = trained.project(tmp_path / str(number), {MODEL: (text, new)})
        if "width" in new:
            file = project / MODEL
            file.write_text(file.read_text().replace("    width: int = 4\n", ""))
        predictor = Predictor(checkpoint_path=trained.snapshot, project=project)
        np.testing.assert_array_equal(predictor.predict(inputs), expected)
        with pytest.raises(AetheriaError, match=r"model_params.scale: expected 1.0, as in .* 3.0"):
            Predictor(None, {"scale": 3.0}, trained.snapshot, project=project)


def test_one_line_on_the_command_line(trained, run, tmp_path):
    project = trained.project(tmp_path, {MODEL: ("scale: float = 1.0", "scale: float = 2.0")})
    file, folder = trained.folder / "config.yaml", trained.folder / "run"
    answer = run("train", file, "--workdir", folder, "--resume=latest", "--project", project)
    answer.assert_refused("expected model_params.scale as in the snapshot (1.0), got 2.0")


class _Parses:
    """Garbage that parses when it is collected, as the logging of a lost exception does."""

    def __init__(self):
        self.me = self

    def __del__(self):
        ast.parse("f(1)")


def test_code_is_read_although_garbage_that_parses_is_collected_meanwhile():
    source = Path(code.__file__).read_bytes()

    def failures(parse):
        count, before = 0, gc.get_threshold()
        for _ in range(20):
            for _ in range(20):
                _Parses()
            gc.set_threshold(5)
            try:
                parse(source)
            except SystemError:
                count += 1
            finally:
                gc.set_threshold(*before)
        return count

    assert failures(code._parse) == 0
    if sys.version_info < (3, 12):
        assert failures(ast.parse) > 0, "the control"
