"""Plug points: one new file, or one installed package, and nothing else edited."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.plugin_package import CHATTY_LOGGER, LINEAR, STOP_CALLBACK, STRIPES_DATA, write_wheel
from support.runs import DIGITS, REPOSITORY

from aetheria.errors import AetheriaError, ConfigError, RegistryError
from aetheria.plugins import CALLBACKS, DATA, LOGGERS, MODELS
from aetheria.plugins.arguments import call_with
from aetheria.plugins.discovery import Module, find_project
from aetheria.plugins.registry import Registry

# Fails the test where it is imported: stands for a file that nobody asked to run.
TRAP = "raise AssertionError('this file was executed')\n"


@pytest.fixture(autouse=True)
def _nothing_stays_registered(monkeypatch):
    """Takes back what a test registers, once everything that ships is loaded."""
    registries = (MODELS, DATA, LOGGERS, CALLBACKS)
    for registry in registries:
        registry.names()
        monkeypatch.setattr(registry, "_found", dict(registry._found))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def project(tmp_path):
    """Makes files of a project: `project({"models/linear.py": text})`; returns its folder."""

    def write_files(files: dict[str, str], root: Path = tmp_path / "project") -> Path:
        for name, text in files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return root

    return write_files


def config_text(**changes: Any) -> str:
    """A short config for the file's own models, as YAML."""
    return yaml.safe_dump({**DIGITS, "epochs": 1, "model_params": {}, **changes})


def model_file(name: str) -> str:
    return LINEAR.replace("NAME", name)


def message(error: type[AetheriaError], call, *arguments: Any) -> str:
    with pytest.raises(error) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_a_logger_a_callback_and_a_dataset_are_each_one_new_file(cli, project):
    files = {
        "models/linear.py": model_file("Linear"),
        "loggers/chatty.py": CHATTY_LOGGER,
        "callbacks/stop_early.py": STOP_CALLBACK,
        "data/stripes.py": STRIPES_DATA,
    }
    assert all(len(text.splitlines()) <= 40 for text in files.values())
    config = config_text(
        model_name="Linear",
        model_params={"width": 4},
        data_name="stripes",
        data_params={"num_examples": 64},
        epochs=50,
        batch_size=16,
        log_every_steps=1,
        eval_every_steps=1,
        loggers=["jsonl", {"chatty": {"greeting": "good day"}}],
        callbacks=[{"stop_early": {"at_step": 3}}],
    )
    root = project({**files, "configs/mine.yaml": config})
    done = cli("train", str(root / "configs" / "mine.yaml"), "--workdir=run")
    assert done.returncode == 0, done.stderr
    run_dir = root.parent / "run"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("completed", "that is enough")
    assert 3 <= summary["steps"] < 50 * 4
    assert summary["num_eval_examples"] == 64
    heard = (run_dir / "chatty.txt").read_text().splitlines()
    assert heard[0] == "good day RunStarted" and heard[-1] == "good day RunEnded"


def test_without_its_file_the_model_is_unknown(cli, project):
    root = project({"models/other.py": model_file("Other"), "c.yaml": config_text(model_name="X")})
    done = cli("train", str(root / "c.yaml"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("model: expected one of ") and "Other" in line
    assert not (root.parent / "runs").exists()


def test_project_files_may_import_one_another(project):
    helper = "WIDTH = 4\n"
    relative = model_file("Relative").replace("int = 8", "int = WIDTH")
    absolute = model_file("Absolute").replace("int = 8", "int = WIDTH")
    root = project(
        {
            "models/__init__.py": "",
            "models/sizes.py": helper,
            "models/relative.py": "from .sizes import WIDTH\n" + relative,
            "models/absolute.py": "from models.sizes import WIDTH\n" + absolute,
        }
    )
    code = (
        "import sys; from pathlib import Path; from aetheria.plugins import MODELS; "
        "print([MODELS.get(n, Path(sys.argv[1]))().width for n in ('Relative', 'Absolute')])"
    )
    done = subprocess.run(  # in a process of its own: `models` is nothing else there yet
        [sys.executable, "-c", code, str(root)],
        cwd=REPOSITORY,  # has a `models` too, which is not meant
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "[4, 4]\n", done.stderr


def test_an_import_path_names_anything_importable():
    from aetheria.models.mlp import SimpleMLP

    from aetheria.observe.loggers.records import JsonlLogger

    assert MODELS.get("aetheria.models.mlp:SimpleMLP") is SimpleMLP
    assert LOGGERS.get("aetheria.observe.loggers.records:JsonlLogger") is JsonlLogger


def test_an_import_path_may_lie_in_the_project(project):
    root = project({"import_path_models/linear.py": model_file("ByImportPath")})
    found = MODELS.get("import_path_models.linear:Linear", root)
    assert found.__name__ == "Linear"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_package.mod:Name", "ModuleNotFoundError"),
        ("aetheria.models.mlp:SimpleMLQ", "AttributeError"),
        (":Name", "ValueError"),
        ("broken_module:Name", "SyntaxError"),
    ],
)
def test_a_wrong_import_path_is_one_line(path, reason, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = message(RegistryError, MODELS.get, path)
    assert line.startswith(f"model {path!r}: expected ") and reason in line


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed a package with entry points of every kind."""
    wheel = write_wheel(tmp_path_factory.mktemp("wheel"))
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-index", f"--target={target}", str(wheel)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def with_package(installed: Path) -> dict[str, str]:
    """An environment in which the package is importable; what was importable before still is."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(paths)}


def test_what_an_installed_package_provides_trains(installed, cli, command, tmp_path):
    config = config_text(
        model_name="PackagedModel",
        data_name="packaged_data",
        epochs=50,
        batch_size=10,
        log_every_steps=1,
        loggers=["packaged_logger"],
        callbacks=[{"packaged_callback": {"at_step": 2}}],
    )
    (tmp_path / "c.yaml").write_text(config)
    done = cli("train", "c.yaml", "--workdir=run", env=with_package(installed))
    assert done.returncode == 0, done.stderr
    assert "hello RunEnded" in (tmp_path / "run" / "chatty.txt").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] < 200
    done = command("train", "c.yaml", "--workdir=other")  # without the package
    assert done.returncode == 2
    assert "got 'PackagedModel'" in done.stderr


def test_a_package_that_does_not_import_is_one_line(installed, cli, tmp_path):
    (tmp_path / "c.yaml").write_text(config_text(model_name="BrokenModel"))
    done = cli("train", "c.yaml", env=with_package(installed))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "aetheria_extra.broken:Nothing" in line and "not_installed_anywhere" in line


def test_two_packages_that_provide_one_name_are_an_error(tmp_path, monkeypatch):
    for package in ("one", "two"):
        info = tmp_path / f"twin_{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: twin-{package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[aetheria.models]\nTwin = twin_{package}:Model\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = message(RegistryError, MODELS.get, "Twin")
    assert "twin_one:Model and twin_two:Model" in line


@pytest.mark.parametrize(
    ("registry", "name", "near"),
    [
        (MODELS, "SimpelMLP", "SimpleMLP"),
        (MODELS, "simplemlp", "SimpleMLP"),
        (DATA, "digit", "digits"),
        (LOGGERS, "josnl", "jsonl"),
        (CALLBACKS, "early_stoping", "early_stopping"),
    ],
)
def test_an_unknown_name_lists_what_exists_and_the_nearest(registry, name, near):
    line = message(RegistryError, registry.get, name)
    listed = ", ".join(registry.names())
    assert near in registry.names()
    assert line.startswith(f"{registry.noun}: expected one of {listed}, got {name!r}; use {near!r}")


@pytest.mark.parametrize("registry", [MODELS, DATA, LOGGERS, CALLBACKS])
def test_of_the_shipped_files_only_the_one_with_the_name_is_imported(registry, monkeypatch):
    """Each registers a name in a form that is found in its text."""
    targets = {name: registry.get(name) for name in registry.names()}
    loaded: list[Module] = []
    monkeypatch.setattr(Module, "load", lambda module: loaded.append(module))
    files = {name: Path(inspect.getfile(target)) for name, target in targets.items()}
    shipped = [name for name, file in files.items() if file.is_relative_to(REPOSITORY)]
    shipped = [name for name in shipped if not files[name].is_relative_to(REPOSITORY / "tests")]
    assert shipped
    for name in shipped:
        loaded.clear()
        assert registry.get(name) is targets[name]
        assert [module.file.name for module in loaded] == [files[name].name]


def test_a_name_that_is_near_nothing_gets_no_wrong_advice():
    line = message(RegistryError, MODELS.get, "zzzzzzzz")
    assert line.split("; ")[1].startswith("use one of these, or pkg.mod:Name (looked in ")


def test_two_models_of_one_name_are_an_error_that_names_both_files(project):
    root = project(
        {"models/first.py": model_file("Doubled"), "models/second.py": model_file("Doubled") + "\n"}
    )
    line = message(RegistryError, MODELS.get, "Doubled", root)
    assert str(root / "models" / "first.py") in line
    assert str(root / "models" / "second.py") in line


def test_a_project_may_not_take_a_shipped_name(cli, project):
    root = project(
        {"models/own.py": model_file("SimpleMLP"), "c.yaml": config_text(model_name="SimpleMLP")}
    )
    done = cli("train", str(root / "c.yaml"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(root / "models" / "own.py") in line and "mlp.py" in line


@pytest.mark.parametrize("name", ["mlp.py", "renamed.py"])
def test_a_copy_of_a_shipped_model_is_no_clash(name, project):
    text = (REPOSITORY / "models" / "mlp.py").read_text(encoding="utf-8")
    root = project({f"models/{name}": text})
    assert MODELS.get("SimpleMLP", root).__name__ == "SimpleMLP"


def test_a_file_that_does_not_import_is_named_and_hides_no_other(project):
    root = project(
        {
            "models/a_broken.py": "import not_installed_anywhere  # register_model\n",
            "models/b_exits.py": "import sys  # register_model\nsys.exit(3)\n",
            "models/c_sound.py": model_file("BesideBroken"),
        }
    )
    assert MODELS.get("BesideBroken", root).__name__ == "Linear"
    line = message(RegistryError, MODELS.get, "BesideBrokn", root)
    assert "use 'BesideBroken'" in line
    for name, reason in (("a_broken", "not_installed_anywhere"), ("b_exits", "SystemExit: 3")):
        assert f"{root / 'models' / name}.py could not be imported (" in line and reason in line
    # Mended, it is forgotten.
    (root / "models" / "a_broken.py").write_text(model_file("Mended") + "# register_model\n" * 9)
    (root / "models" / "b_exits.py").unlink()
    assert "could not be imported" not in message(RegistryError, MODELS.get, "BesideBrokn", root)


def test_a_models_package_that_does_not_import_is_named_and_hides_nothing_shipped(project):
    root = project({"models/__init__.py": "import not_there\n", "models/m.py": model_file("InIt")})
    assert MODELS.get("SimpleMLP", root).__name__ == "SimpleMLP"
    line = message(RegistryError, MODELS.get, "InIt", root)
    assert "m.py could not be imported (ModuleNotFoundError: No module named 'not_there')" in line


def test_a_script_that_registers_nothing_is_not_executed(project):
    root = project(
        {
            "data/download.py": TRAP,
            "data/_private.py": TRAP + "# register_data\n",
            "data/stripes.py": STRIPES_DATA.replace("stripes", "stripes_beside_scripts"),
        }
    )
    (root / "data" / ".#stripes.py").symlink_to("nobody@nowhere.1234")  # an editor's lock
    assert DATA.get("stripes_beside_scripts", root)
    line = message(RegistryError, DATA.get, "stripes_beside", root)
    assert "could not be imported" not in line
    # The same file with the decorator's name in it is a candidate, so it is executed.
    project({"data/download.py": TRAP + "# register_data\n"})
    line = message(RegistryError, DATA.get, "stripes_beside", root)
    assert "could not be imported (AssertionError: this file was executed)" in line


def test_the_project_is_the_nearest_folder_with_models(project, tmp_path, monkeypatch):
    root = project({"models/a.py": "", "configs/deep/c.yaml": "", "inner/models/b.py": ""})
    assert find_project(root / "configs" / "deep" / "c.yaml") == root.resolve()
    assert find_project(root / "inner" / "c.yaml") == (root / "inner").resolve()
    assert find_project(root / "inner" / "c.yaml", root) == root.resolve()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert find_project(elsewhere / "c.yaml") == elsewhere.resolve()


def test_registering_the_same_object_again_is_no_clash():
    registry = Registry("model", "models", "aetheria.models")
    add = registry.register("Again")
    assert add(add(test_registering_the_same_object_again_is_no_clash)) is not None


@pytest.mark.parametrize(
    ("params", "lines"),
    [
        (
            {"hiden_dim": 3},
            ["model_params.hiden_dim: expected one of input_dim, hidden_dim, num_layers, "
             "num_classes, dropout, rule, momentum, schedule, warmup_steps, metrics, "
             "learning_rate, weight_decay, max_grad_norm, "
             "ema_decay, got 'hiden_dim'; did you mean 'hidden_dim'?"],
        ),
        (
            {"dropout": "1e-1", "hidden_dim": "wide", "num_classes": True, "num_layers": 1.5},
            [
                "model_params.hidden_dim: expected a whole number, got 'wide'; change it",
                "model_params.num_classes: expected a whole number, got True; change it",
                "model_params.num_layers: expected a whole number, got 1.5; change it",
            ],
        ),
    ],
)  # fmt: skip
def test_wrong_model_params_are_a_line_each(params, lines, cli, tmp_path, capsys):
    from aetheria.cli.main import main

    file = tmp_path / "c.yaml"
    file.write_text(config_text(model_params=params))
    assert main(["train", str(file)]) == 2
    assert capsys.readouterr().err.splitlines() == lines


def test_arguments_are_converted_to_their_annotations():
    from collections.abc import Sequence
    from typing import Literal

    def factory(
        rate: float,
        count: int,
        sizes: Sequence[int],
        pair: tuple[int, ...] = (),
        mode: Literal["min", "max"] = "min",
        limit: float | None = None,
        either: int | str = 0,
    ):
        return rate, count, sizes, pair, mode, limit, either

    given = {"rate": "1e-3", "count": 2.0, "sizes": [1], "pair": [1, 2], "mode": "max"}
    converted = call_with(factory, "here", {**given, "limit": "2e1", "either": "x"})
    assert converted == (0.001, 2, [1], (1, 2), "max", 20.0, "x")
    assert type(converted[1]) is int and hash(converted[3])
    assert call_with(factory, "here", {**given, "limit": None})[5] is None
    with pytest.raises(ConfigError) as caught:
        call_with(factory, "here", {"rate": [1], "count": 1, "mode": "mim"})
    assert caught.value.problems == (
        "here.rate: expected a number, got [1]; change it",
        "here.mode: expected one of min, max (did you mean 'min'?), got 'mim'; change it",
        "here.sizes: expected a value, got none; add it",
    )


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        (
            {"model_name": "aetheria:__version__"},
            "model_name: expected an aetheria Model, got 'aetheria:__version__', which is a str; ",
        ),
        ({"model_name": "aetheria:Model"}, "model_params: expected a complete class, got Model "),
        (
            {"model_name": "numpy:ndarray", "learning_rate": None},
            "model_name: expected an aetheria Model, got 'numpy:ndarray', which is the class ndarr",
        ),
        ({"data_name": "aetheria.data.feed:epoch_order"}, "data_params.seed: expected a value"),
        ({"loggers": [{"jsonl": 3}]}, "loggers: expected a name or {name: arguments}, got"),
        ({"loggers": [{"jsonl": {}, "csv": {}}]}, "loggers: expected a name or {name: arguments}"),
        (
            {"loggers": [{"jsonl": {"path": "x"}}]},
            "loggers.jsonl: expected no arguments, got",
        ),
        ({"callbacks": [3]}, "callbacks: expected a name or {name: arguments}, got 3"),
        ({"callbacks": [{"early_stopping": {"patience": "long"}}]}, "callbacks.early_stopping.pat"),
    ],
)
def test_what_cannot_be_made_is_said_in_config_terms(changes, start, tmp_path, capsys):
    from aetheria.cli.main import main

    file = tmp_path / "c.yaml"
    params = {"input_dim": 64, "num_classes": 10} if "model_name" not in changes else {}
    file.write_text(config_text(model_params=params, **changes))
    assert main(["train", str(file), f"--workdir={tmp_path / 'run'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(start)
    assert not (tmp_path / "run").exists()


def test_two_projects_in_one_process_do_not_see_each_other(tmp_path):
    for name in ("first", "second"):
        folder = tmp_path / name / "models"
        folder.mkdir(parents=True)
        (folder / "same.py").write_text(
            LINEAR.replace("NAME", "Same").replace("= 8", f"= {len(name)}")
        )
    (tmp_path / "first" / "models" / "own.py").write_text(LINEAR.replace("NAME", "OnlyFirst"))
    found = [MODELS.get("Same", tmp_path / name)().width for name in ("first", "second", "first")]
    assert found == [5, 6, 5]
    assert "OnlyFirst" in MODELS.names(tmp_path / "first")
    assert "OnlyFirst" not in MODELS.names(tmp_path / "second")
