"""The structure of the package: who may import whom, what a plain run loads, how typed it is."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import find_packages

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "aetheria"

# One import for each contract of pyproject.toml that breaks this contract and no other.
VIOLATIONS = {
    "Imports go one way": ("data/feed.py", "aetheria.snapshots.sizes"),
    "Inversion: the engine knows no framework and none of the other rooms": (
        "engine/loop.py",
        "optax",
    ),
    "The vocabulary knows no framework": ("config/files.py", "numpy"),
    "Listeners know neither the framework nor the engine": ("observe/goodput.py", "jax"),
    "The two backends do not know each other": (
        "hardware/torch/ranks.py",
        "aetheria.hardware.jax.mesh",
    ),
    "Processes know no device": ("hardware/processes/signals.py", "jax"),
    "PyTorch stays in its room": ("model/layers.py", "torch"),
    "Tools are slices: none imports another": (
        "tools/report/command.py",
        "aetheria.tools.plan.text",
    ),
}

# Checks every contract on the tree as it is, and again for each import; in one process, from a copy
# in the current folder. Prints {name of the import's contract, or "": names of broken contracts}.
CHECK_CONTRACTS = """
import json, sys
from pathlib import Path

sys.path.insert(0, ".")
from importlinter import configuration
from importlinter.application import use_cases

configuration.configure()
options = use_cases.read_user_options("pyproject.toml")
use_cases._register_built_in_contract_types()


def broken():
    report = use_cases.create_report(options, cache_dir=None)
    assert not report.invalid_contract_options, report.invalid_contract_options
    checked = report.get_contracts_and_checks()
    return [contract.name for contract, check in checked if not check.kept]


found = {"": broken()}
for name, (file, imported) in json.loads(sys.argv[1]).items():
    path = Path("aetheria") / file
    text = path.read_text()
    path.write_text(f"{text}\\nimport {imported}\\n")
    found[name] = broken()
    path.write_text(text)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def broken_contracts(tmp_path_factory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("contracts")
    shutil.copytree(PACKAGE, folder / "aetheria", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    done = subprocess.run(
        [sys.executable, "-c", CHECK_CONTRACTS, json.dumps(VIOLATIONS)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_import_contracts_hold(broken_contracts):
    assert broken_contracts[""] == []


def test_every_contract_has_a_violation():
    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    assert [contract["name"] for contract in contracts] == list(VIOLATIONS)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_breaks_its_contract_alone(name, broken_contracts):
    assert broken_contracts[name] == [name]


def draw_architecture() -> ModuleType:
    file = REPOSITORY / "scripts" / "draw_architecture.py"
    spec = importlib.util.spec_from_file_location("draw_architecture", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_architecture"] = module  # its dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["draw_architecture"]
    return module


def test_the_picture_of_the_architecture_is_current():
    script = draw_architecture()
    edges = script.read_edges(PACKAGE)
    script.check_downwards(edges)
    assert script.PICTURE.read_text() == script.draw(edges), (
        "run python scripts/draw_architecture.py"
    )


def test_another_import_gives_another_picture_or_is_refused():
    script = draw_architecture()
    edges = script.read_edges(PACKAGE)
    assert script.draw(edges | {"cli": {"vocabulary"}}) != script.draw(edges)
    with pytest.raises(ValueError, match="data imports snapshots"):
        script.check_downwards(edges | {"data": {"snapshots"}})


# Trains for two steps and prints which modules of the package that has loaded.
PLAIN_RUN = """
import json, sys
from aetheria.cli.main import main

arguments = ["train", sys.argv[1], "--workdir", "run", "--set", "max_steps=2"]
assert main(arguments) == 0
assert "sklearn" not in sys.modules, "two seconds of the start"
files = {
    name: module.__file__
    for name, module in sys.modules.items()
    if name.split(".")[0] == "aetheria" and getattr(module, "__file__", None)
}
print(json.dumps({n: f for n, f in files.items() if not n.startswith("aetheria.models")}))
"""
# What a reader of a plain run in one process does not come across.
NOT_IN_A_PLAIN_RUN = (
    "aetheria.hardware.torch",
    "aetheria.hardware.jax.elastic",
    "aetheria.hardware.jax.lanes",
    "aetheria.hardware.jax.distributed",
    "aetheria.hardware.jax.local_devices",
    "aetheria.hardware.jax.prediction",
    "aetheria.hardware.jax.generation",
    "aetheria.model.decoding",
    "aetheria.hardware.processes.agreed_stop",
    "aetheria.hardware.processes.handshake",
    "aetheria.hardware.processes.rendezvous_server",
    "aetheria.hardware.processes.process_group",
    "aetheria.hardware.processes.rendezvous",
    "aetheria.snapshots.shared_store",
    "aetheria.snapshots.config_diff",
    "aetheria.data.images",
    "aetheria.data.image_folder",
    "aetheria.data.augmentation",
    "aetheria.data.readers",
    "aetheria.data.text",
    "aetheria.hardware.layout.layer_rows",
    "aetheria.hardware.jax.layer_statistics",
    "aetheria.observe.samples",
    "aetheria.observe.pictures",
    "aetheria.observe.confusion",
    "aetheria.observe.loggers.look",
    "aetheria.observe.loggers.service",
    *(f"aetheria.observe.loggers.{name}" for name in ("comet", "mlflow", "trackio", "wandb")),
    "aetheria.inference",
    *(f"aetheria.tools.{folder.name}." for folder in sorted((PACKAGE / "tools").iterdir())),
)
# What a reader of a plain run has before him, blank lines and docstrings included; and the code
# alone, without these and comments. They rise only with what a run itself does.
MAX_LINES, MAX_CODE_LINES = 20_250, 11_850


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, Path]:
    """Name -> file of what `aetheria train configs/mlp.py` loads of the package."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_RUN, str(REPOSITORY / "configs" / "mlp.py")],
        cwd=tmp_path_factory.mktemp("plain_run"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout.splitlines()[-1])
    return {name: Path(file) for name, file in files.items()}


def is_of(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix if prefix.endswith(".") else f"{prefix}.")


@pytest.mark.slow
def test_a_plain_run_loads_no_part_that_it_does_not_need(loaded):
    assert len(loaded) > 50
    assert "aetheria.engine.loop" in loaded
    assert [name for name in loaded if any(is_of(name, p) for p in NOT_IN_A_PLAIN_RUN)] == []


@pytest.mark.slow
def test_a_plain_run_is_of_bounded_length(loaded):
    lines = {name: len(code_lines(file.read_text())) for name, file in loaded.items()}
    whole = sum(len(file.read_text().splitlines()) for file in loaded.values())
    print(f"{sum(lines.values())} lines of code, {whole} in all, in {len(lines)} files; the most:")
    for name in sorted(lines, key=lines.__getitem__, reverse=True)[:15]:
        print(f"{lines[name]:5} {name}")
    assert whole <= MAX_LINES
    assert sum(lines.values()) <= MAX_CODE_LINES


def code_lines(source: str) -> set[int]:
    """The lines of statements: no blank line, no comment, no docstring."""
    nodes = list(ast.walk(ast.parse(source)))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        line
        for node in nodes
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    written = {
        line
        for node in nodes
        if isinstance(node, ast.stmt | ast.expr)
        for line in (node.lineno, node.end_lineno or node.lineno)
    }
    return written - docstrings


def test_comments_blank_lines_and_docstrings_are_no_lines_of_code():
    source = (
        '"""Doc."""\n\n# why\ndef add(a, b):\n    """Doc.\n\n    More.\n    """\n    return a + b\n'
    )
    assert code_lines(source) == {4, 9}


# These may only fall.
MAX_SHARE_OF_ANY = {"aetheria": 0.08, "aetheria/model": 0.12}


def parameters(source: str) -> Iterator[ast.arg]:
    """The annotated parameters of all functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            rest = (node.args.vararg, node.args.kwarg)
            named = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            yield from (item for item in (*named, *rest) if item and item.annotation)


def takes_any(parameter: ast.arg) -> bool:
    """Whether a parameter's annotation is `Any` or contains it."""
    assert parameter.annotation is not None
    annotation = parameter.annotation
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value)
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(annotation))


@pytest.mark.parametrize("folder", MAX_SHARE_OF_ANY)
def test_few_parameters_are_of_any_type(folder):
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    found = [takes_any(item) for file in files for item in parameters(file.read_text())]
    assert len(found) > 100
    share = sum(found) / len(found)
    print(f"{folder}: {sum(found)} of {len(found)} parameters, {share:.1%}")
    assert share <= MAX_SHARE_OF_ANY[folder]


def test_any_is_found_wherever_it_stands():
    source = "def f(a: Any, b: Mapping[str, Any], c: 'Any', d: int, e, *f: Any, **g: str): ..."
    assert [takes_any(item) for item in parameters(source)] == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


MAPS = ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")


def missing_paths(text: str) -> list[str]:
    """The paths in backticks below a folder of the repository that do not exist."""
    paths = re.findall(r"`((?:aetheria|models|configs|scripts|tests|docs)/[^`\s*<]+)`", text)
    assert paths
    return [path for path in paths if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize("page", MAPS)
def test_every_path_on_a_page_exists(page):
    text = (REPOSITORY / page).read_text()
    assert missing_paths(text) == []
    assert missing_paths(f"{text} `aetheria/no_such.py`") == ["aetheria/no_such.py"]


def test_every_link_of_the_pages_outside_docs_leads_somewhere():
    folder = REPOSITORY / "docs" / "decisions"
    pages = [REPOSITORY / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    for page in [*pages, *folder.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


FRONT_DOORS = {"__init__", "__main__", "api", "main", "predict", "inference", "pytorch"}


def test_the_top_of_the_package_holds_front_doors_and_the_vocabulary():
    assert {file.stem for file in PACKAGE.glob("*.py")} == FRONT_DOORS | {"events", "errors"}


def test_the_packages_that_setuptools_finds_are_the_folders_with_code():
    found = set(find_packages(str(REPOSITORY), include=["aetheria", "aetheria.*"]))
    folders = {file.parent.relative_to(REPOSITORY) for file in PACKAGE.rglob("*.py")}
    assert found == {".".join(folder.parts) for folder in folders}


def test_git_ignores_no_file_of_the_package():
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no clone")
    files = [str(file.relative_to(REPOSITORY)) for file in PACKAGE.rglob("*.py")]
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    ignored = subprocess.run(
        command, cwd=REPOSITORY, input="\n".join(files), capture_output=True, text=True
    )
    assert ignored.stdout == ""
    control = subprocess.run([*command[:-1], ".venv/a.py"], cwd=REPOSITORY, capture_output=True)
    assert control.stdout != b""
