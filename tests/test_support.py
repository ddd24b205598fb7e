"""The tests' own structure: helpers live in `support/`, and no test imports a test."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from aetheria.models.mlp import SimpleMLP
from support.compile_cache import no_cache, unoptimized
from support.long import covering, covering_rows
from support.programs import make_spec
from support.runs import TESTS
from support.shared_programs import own_programs, shared_programs

from aetheria.hardware.jax.strategy import select_strategy

pytestmark = pytest.mark.uncached


def imported_modules(source: str) -> Iterator[str]:
    """Every module that a source imports, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def imported_tests(source: str) -> set[str]:
    """The tests and conftest.py files among what a source imports."""
    return {
        module
        for module in imported_modules(source)
        for part in module.split(".")
        if part.startswith("test_") or part == "conftest"
    }


def test_a_program_is_shared_by_runs_that_are_compiled_for_the_same_and_no_others():
    made = {
        "inputs": np.ones((1, 4, 3), np.float32),
        "labels": np.zeros((1, 4), int),
        "mask": np.ones((1, 4), np.float32),
    }

    def compile(rate: float = 0.1, **spec):
        model = SimpleMLP(learning_rate=rate)
        return select_strategy("cpu", {}).compile(model, make_spec(made, **spec))

    assert compile() is not compile()
    with shared_programs():
        first = compile()
        others = [compile(rate=0.2), compile(seed=1), compile(total_steps=11)]
        made["inputs"] = 2 * made["inputs"]
        others.append(compile())
        made["inputs"] = made["inputs"] / 2
        with own_programs():
            others.append(compile())
        assert first not in others
        assert compile() is first
    assert compile() is not first


def test_only_what_is_compiled_without_optimizations_is_compiled_quickly():
    from jax._src import compiler

    options = lambda: dict(compiler.get_compile_options(1, 1).env_option_overrides)
    assert options() == {}, "a module that proves bits compiles as its users do"
    with unoptimized():
        assert "xla_cpu_parallel_codegen_split_count" in options()
        with no_cache():
            assert options() == {}
    assert options() == {}


def test_no_test_imports_a_test():
    found = {
        str(file.relative_to(TESTS)): imported_tests(file.read_text())
        for file in TESTS.rglob("*.py")
    }
    assert len(found) > 50
    assert {file: modules for file, modules in found.items() if modules} == {}


def test_helpers_live_in_the_package_support():
    others = {"__init__.py", "conftest.py"}
    beside = [file.name for file in TESTS.glob("*.py") if not file.name.startswith("test_")]
    assert {*beside} <= others


@pytest.mark.parametrize(
    "source",
    [
        "from conftest import DIGITS",
        "import test_models",
        "def test():\n    from test_models import LinenNormed",
        "from cases.conftest import Answer",
        "from cases import test_names",
    ],
)
def test_an_import_of_a_test_is_found(source):
    assert imported_tests(source)


def test_helpers_are_no_tests():
    assert imported_tests("import pytest\nfrom support.runs import DIGITS") == set()


def test_what_is_not_in_the_default_set_is_marked_long():
    one, two = covering({"a": 1, "b": 2}, default=["a"])
    assert (one.id, list(one.marks)) == ("a", [])
    assert (two.id, [mark.name for mark in two.marks]) == ("b", ["long"])
    with pytest.raises(AssertionError, match="expected names among"):
        covering([1, 2], default=[3])


FILE = """
import pytest

def test_always():
    pass

@pytest.mark.long
def test_seldom():
    pass
"""


@pytest.mark.parametrize(
    ("options", "passed", "left_out"),
    covering_rows(
        {
            "as it is": ((), 1, 1),
            "all": (("--long",), 2, 0),
            "by the marker": (("-m", "long"), 1, 0),
            "in two processes": (("-n2",), 1, 1),
        },
        default=["all", "in two processes"],
    ),
)
def test_long_tests_run_when_they_are_asked_for(tmp_path, options, passed, left_out):
    (tmp_path / "test_two.py").write_text(FILE)
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "support").symlink_to(TESTS / "support")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long: later\n")
    command = [sys.executable, "-m", "pytest", "-q", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f"{passed} passed" in done.stdout, done.stdout + done.stderr
    assert ("long tests left out; --long runs them too" in done.stdout) == bool(left_out)
