"""PyTorch counterparts are registered from outside the model, and found when they are needed."""

import ast
import importlib.util
import sys
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("torch")

from support.runs import REPOSITORY

from aetheria import Classifier
from aetheria.errors import AetheriaError
from aetheria.hardware.torch.counterparts import COUNTERPARTS, CounterpartRegistry
from aetheria.plugins import MODELS

EXAMPLE = {"inputs": np.zeros((2, 3), np.float32)}


@dataclass(frozen=True)
class Own(Classifier):
    def network(self):
        raise NotImplementedError


class Derived(Own):
    pass


def test_a_counterpart_serves_subclasses_and_the_nearest_class_comes_first():
    registry = CounterpartRegistry()
    registry.register(Own)(lambda model, example: ("own", model, example))
    assert registry.make(Derived(), EXAMPLE) == ("own", Derived(), EXAMPLE)
    registry.register(Derived)(lambda model, example: "derived")
    assert registry.make(Derived(), EXAMPLE) == "derived"
    assert registry.make(Own(), EXAMPLE)[0] == "own"


def test_a_model_without_a_counterpart_is_one_line_that_says_how_to_register_one():
    message = r"PyTorch counterpart, got Derived; register one with .*register_counterpart\(Derived"
    with pytest.raises(AetheriaError, match=message):
        CounterpartRegistry().make(Derived(), EXAMPLE)


def test_what_inputs_weights_belong_to_is_asked_of_the_counterpart():
    registry = CounterpartRegistry()
    registry.register(Own)(lambda model, example: None)
    assert registry.infer_inputs(Own(), {}) is None
    infer = lambda model, shapes: (shapes["w"][:1], "float32")
    registry.register(Own, infer_inputs=infer)(lambda model, example: None)
    assert registry.infer_inputs(Own(), {"w": (3, 4)}) == ((3,), "float32")


@pytest.mark.parametrize("name", ["SimpleMLP", "SimpleCNN", "Transformer"])
def test_the_shipped_models_have_counterparts_in_the_module_beside_them(name):
    model = MODELS.get(name)()
    example = {"inputs": np.zeros((2, 28, 28, 1), np.float32)}
    twin = COUNTERPARTS.make(model, example)
    # The last part: a checkout's `models/` may also be imported without the package's name.
    own, other = (type(each).__module__.rpartition(".")[2] for each in (model, twin))
    assert other == f"{own}_torch"


MODEL = """
from aetheria import Classifier, register_model

@register_model("Small")
class Small(Classifier):
    def network(self): ...
"""
COUNTERPART = """
from aetheria.pytorch import register_counterpart
from .small import Small

@register_counterpart(Small)
def make(model, example_batch):
    return "small", model
"""


def test_a_model_of_a_project_is_found_beside_its_file(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.py").write_text(MODEL)
    (tmp_path / "models" / "small_torch.py").write_text(COUNTERPART)
    model = MODELS.get("Small", tmp_path)()
    assert COUNTERPARTS.make(model, EXAMPLE) == ("small", model)


def test_a_file_that_is_imported_under_two_names_has_one_model(monkeypatch):
    spec = importlib.util.spec_from_file_location("other_name", __file__)
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "other_name", again)
    spec.loader.exec_module(again)
    registry = CounterpartRegistry()
    registry.register(again.Own)(lambda model, example: "found")
    assert again.Own is not Own and registry.make(Own(), EXAMPLE) == "found"


def test_the_contract_of_a_model_names_no_torch():
    source = (REPOSITORY / "aetheria" / "model" / "model.py").read_text()
    names = [n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    assert names and not [name for name in names if "torch" in name]
