"""The public surface is frozen: exports, commands and flags, config keys, events, exit codes."""

import copy
import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aetheria

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = REPOSITORY / "scripts" / "freeze_surface.py"
    spec = importlib.util.spec_from_file_location("freeze_surface", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def surface(script) -> dict[str, dict[str, Any]]:
    return script.read_surface()


def test_the_public_surface_is_the_frozen_one(script, surface):
    frozen = json.loads(script.GOLDEN.read_text())
    assert script.differences(frozen, surface) == [], (
        "if this is meant: python scripts/freeze_surface.py, and a line in CHANGELOG.md"
    )


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("exports", "Model"),
        ("commands", "train"),
        ("config", "snapshot.keep_last"),
        ("events", "EvaluationCompleted"),
        ("summary", "params_sha256"),
        ("exit_codes", "PREEMPTED"),
    ],
)
def test_a_name_that_goes_or_changes_is_found(section, name, script, surface):
    without, changed = copy.deepcopy(surface), copy.deepcopy(surface)
    del without[section][name]
    changed[section][name] = "something else"
    assert script.differences(surface, without) == [f"{section}: {name}: removed"]
    assert len(script.differences(surface, changed)) == 1


def test_every_part_of_the_surface_is_read(surface):
    assert {"--resume", "--set", "--workdir", "--join-timeout"} <= set(surface["commands"]["train"])
    assert {"train", "plan", "prove resume", "prove elastic", "debug nan"} <= set(
        surface["commands"]
    )
    assert surface["config"]["batch_size"] == "int = 64"
    assert {"goodput", "num_eval_examples", "num_compilations", "ledger"} <= set(surface["summary"])
    assert surface["exit_codes"]["HANG"] == 76


def test_every_export_is_there():
    for name, module in aetheria._HOMES.items():
        assert getattr(aetheria, name) is getattr(importlib.import_module(module), name)
