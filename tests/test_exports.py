"""The names that `import aetheria` offers: one list for type checkers, one for the interpreter."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import aetheria


def names_for_type_checkers():
    """Name -> module, of what `aetheria/__init__.py` imports under TYPE_CHECKING."""
    tree = ast.parse(Path(aetheria.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    aliases = [(alias, node.module) for node in imports for alias in node.names]
    assert all(alias.asname == alias.name for alias, _ in aliases)  # exported, not only imported
    return {alias.name: module for alias, module in aliases}


def test_both_lists_of_names_agree():
    assert names_for_type_checkers() == aetheria._HOMES
    assert sorted(aetheria._HOMES) == aetheria.__all__


@pytest.mark.parametrize("name", aetheria.__all__)
def test_every_name_is_what_its_module_has(name):
    module = importlib.import_module(aetheria._HOMES[name])
    assert getattr(aetheria, name) is getattr(module, name)
    assert name in dir(aetheria)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Adamw'"):
        aetheria.Adamw  # noqa: B018


START = """
import aetheria, sys
print([name for name in ("jax", "torch", "numpy") if name in sys.modules])
print(aetheria.events.RunEnded.__name__, aetheria.predict.load.__name__, aetheria.errors.__name__)
print(aetheria.inference.Predictor is aetheria.Predictor, aetheria.loops.__name__)
"""


def test_importing_aetheria_imports_no_framework_and_its_modules_need_no_import():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        "RunEnded load aetheria.errors",
        "True aetheria.loops",
    ]
    assert {*aetheria._MODULES} < {*dir(aetheria)}
