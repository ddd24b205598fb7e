"""Law of Inversion: the engine never knows the hardware."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.records import make_run_record
from support.runs import REPOSITORY

from aetheria.engine import Engine, NonFinitePolicy, Schedule
from aetheria.engine.interfaces import Chunk, GuardCounters, HostReport
from aetheria.engine.stop import StopSignal
from aetheria.observe import EventBus

LINTER = str(Path(sys.executable).parent / "lint-imports")
FRAMEWORKS = ("jax", "flax", "optax", "orbax", "torch", "numpy")


def loaded_by(statement: str) -> set[str]:
    """The frameworks that are in sys.modules after a statement, in a fresh interpreter."""
    code = f"import sys; {statement}; print(*(n for n in {FRAMEWORKS} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_engine_loads_no_framework_directly_or_through_others():
    assert loaded_by("import aetheria.engine") == set()
    assert "jax" in loaded_by("import aetheria.hardware.jax.program"), (
        "the check can see a framework"
    )


def test_import_contracts_hold():
    done = subprocess.run([LINTER], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_contracts_can_fail(tmp_path):
    """The same checker, with a contract that is broken on purpose."""
    config = tmp_path / "broken.toml"
    config.write_text(
        "[tool.importlinter]\nroot_package = 'aetheria'\n"
        "include_external_packages = true\n"
        "[[tool.importlinter.contracts]]\nname = 'hardware knows no jax'\ntype = 'forbidden'\n"
        "source_modules = ['aetheria.hardware']\nforbidden_modules = ['jax']\n"
    )
    done = subprocess.run(
        [LINTER, "--config", str(config)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "1 broken" in done.stdout


def test_the_same_engine_drives_both_frameworks(train):
    """Nothing but the config differs; the engine takes the same steps over the same examples."""
    pytest.importorskip("torch")
    summaries = [train(name, strategy=name, epochs=1).summary for name in ("cpu", "torch")]
    for key in ("status", "steps", "micro_steps", "examples_seen", "num_eval_examples"):
        assert summaries[0][key] == summaries[1][key]
    assert [s["num_compilations"] for s in summaries] == [{"train_step": 1, "eval_step": 1}, {}]


def imports_of(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def names_a_concrete_model(source: str) -> bool:
    concrete = ("models", "configs", "scripts", "aetheria.models")
    return any(
        name == root or name.startswith(f"{root}.")
        for name in imports_of(source)
        for root in concrete
    )


def test_core_imports_no_concrete_model_config_or_script():
    files = sorted((REPOSITORY / "aetheria").rglob("*.py"))
    assert len(files) > 30
    assert [file for file in files if names_a_concrete_model(file.read_text())] == []
    assert names_a_concrete_model("from aetheria.models.mlp import SimpleMLP")


class CountingProgram:
    """A framework of its own: the state is a dict of whole numbers."""

    steps_per_call = 2
    mfu = staticmethod(lambda steps_per_second: None)
    memory = staticmethod(lambda: None)
    loop_context = staticmethod(nullcontext)

    def init(self) -> dict[str, int]:
        return {"step": 0, "sum": 0}

    def train_steps(
        self, state: Mapping, arrays: Mapping, start: int, count: int, since: Mapping | None
    ) -> tuple[dict, dict]:
        for global_batch in arrays["x"][start : start + count]:
            state = {"step": state["step"] + 1, "sum": state["sum"] + sum(global_batch)}
        return state, state

    def eval_step(self, state: Mapping, batch: Mapping, totals: dict | None) -> dict:
        return {"count": (totals or {"count": 0})["count"] + len(batch["x"])}

    def fetch(self, report: Mapping) -> HostReport:
        if "count" in report:
            return HostReport({"loss": 0.0}, report["count"], None)
        return HostReport({"loss": 0.0}, 2, GuardCounters(report["step"], 0, 0, 0))

    def export_state(self, state: Mapping) -> dict:
        return dict(state)

    def import_state(self, arrays: Mapping) -> dict:
        return dict(arrays)

    def unfreeze(self, state: Mapping, ignore_until_step: int) -> dict:
        return dict(state)


class CountingFeed:
    """Examples 0..5, two a window."""

    num_train_examples, tokens_per_example = 6, None
    eval_splits, test_splits = ("eval",), ()

    def train_chunks(self, examples_seen: int, max_global_batches: int):
        while True:
            start = examples_seen % 6
            global_batches = [[i, i + 1] for i in range(start, 6, 2)][:max_global_batches]
            yield Chunk({"x": global_batches}, [2] * len(global_batches))
            examples_seen += 2 * len(global_batches)

    def eval_batches(self, split):
        yield {"x": [0, 1, 2]}


class MemoryWriter:
    """Keeps snapshots in a dict."""

    def __init__(self):
        self.saved = {}

    def busy(self) -> bool:
        return False

    def save(self, name, arrays, record) -> None:
        self.saved[name] = (arrays, record)

    def finished(self, *, wait: bool = False) -> list:
        return []

    def read_newest(self) -> None:
        return None


class NoDumps:
    def has_budget(self) -> bool:
        return False


@pytest.fixture
def engine_over_another_framework():
    writer = MemoryWriter()
    engine = Engine(
        program=CountingProgram(),
        feed=CountingFeed(),
        schedule=Schedule(num_train_examples=6, batch_size=2, grad_accumulation_steps=1, epochs=2),
        bus=EventBus({}),
        snapshots=writer,
        stop=StopSignal(),
        nonfinite=NonFinitePolicy(action="skip", max_consecutive_skips=3, dumps=NoDumps()),
        record=make_run_record(),
    )
    return engine, writer


def test_engine_drives_a_program_of_any_framework(engine_over_another_framework):
    engine, writer = engine_over_another_framework
    outcome = engine.run()
    assert outcome.status == "completed"
    assert outcome.state == {"step": 6, "sum": 2 * sum(range(6))}
    assert outcome.num_eval_examples == 3
    assert list(writer.saved) == ["snapshot_ep1", "snapshot_ep2"]
