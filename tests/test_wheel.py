"""The Quick Start with what a user installs: a wheel, in an empty folder, far from the checkout."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from support.long import only_long
from support.plugin_package import write_wheel
from support.runs import REPOSITORY

pytestmark = pytest.mark.slow

CONFIG = """\
model_name: "SimpleMLP"
epochs: 10
batch_size: 64
learning_rate: 0.001
mixed_precision: true
grad_accumulation_steps: 4
max_grad_norm: 1.0
"""
PREDICT = """\
import json, sys
import numpy as np
from aetheria.inference import Predictor

predictor = Predictor(
    model_name="SimpleMLP",
    model_params={"input_dim": 10, "hidden_dim": 128},
    checkpoint_path="checkpoints/snapshot_ep10.pt",
)
batch = np.linspace(-1, 1, 50, dtype=np.float32).reshape(5, 10)
outputs = predictor.predict(batch)
files = [m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "aetheria"]
print(json.dumps({
    "snapshot": str(predictor.snapshot),
    "shape": outputs.shape,
    "finite": bool(np.isfinite(outputs).all()),
    "files": files,
}))
"""


def run(*command: str | Path, cwd: Path, exit_code: int = 0) -> subprocess.CompletedProcess:
    """Runs a command that must exit so, with no path of ours in its environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the repository, built from a copy: a build leaves files in its folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("aetheria", "models", "configs"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, source)
    if importlib.util.find_spec("build") is not None:
        command = ["-m", "build", "--wheel", f"--outdir={target}", source]
    else:
        command = ["-m", "pip", "wheel", "--no-deps", f"--wheel-dir={target}", source]
    run(sys.executable, *command, cwd=target)
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a virtual environment that holds the wheel and nothing else.

    Dependencies come from the environment of the tests, as a plain folder on the path. Hooks of
    that environment, such as an editable install of this repository, are not active there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    executable = folder / "bin" / "python"
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=paths))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, f"--python={executable}", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    there = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(there)) + "\n")
    return executable


def test_the_wheel_holds_every_module_and_nothing_else(wheel, python, tmp_path):
    listed = run(sys.executable, "-m", "zipfile", "-l", wheel, cwd=tmp_path).stdout
    packed = {line.split()[0] for line in listed.splitlines() if ".py " in line}
    sources = [
        *(path.relative_to(REPOSITORY) for path in (REPOSITORY / "aetheria").rglob("*.py")),
        *(
            "aetheria" / path.relative_to(REPOSITORY)
            for folder in ("models", "configs")
            for path in (REPOSITORY / folder).rglob("*.py")
        ),
    ]
    assert packed == {path.as_posix() for path in sources}


def test_the_quick_start_runs_from_an_empty_folder(python, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    first = run(python, "-m", "aetheria", "train", "config.yaml", cwd=tmp_path)
    assert "run folder: runs/config/1 (starting afresh)" in first.stdout
    snapshots = {path.name for path in (tmp_path / "runs/config/1/checkpoints").iterdir()}
    assert snapshots == {f"snapshot_ep{epoch}" for epoch in range(1, 11)}

    resume = ["train", "config.yaml", "--resume", "checkpoints/snapshot_ep5.pt"]
    second = run(python.parent / "aetheria", *resume, cwd=tmp_path)
    assert "resuming from runs/config/1/checkpoints/snapshot_ep5" in second.stdout
    summaries = [
        json.loads((tmp_path / "runs/config" / number / "summary.json").read_text())
        for number in ("1", "2")
    ]
    assert [summary["status"] for summary in summaries] == ["completed"] * 2
    assert summaries[0]["params_sha256"] == summaries[1]["params_sha256"]
    assert summaries[0]["final"] == summaries[1]["final"]

    # The files that are no modules are there: the template of a project, which trains at once,
    # the example configs, and the script that draws curves.
    assert "config.yaml" in run(python, "-m", "aetheria", "init", "new", cwd=tmp_path).stdout
    done = run(
        python, "-m", "aetheria", "train", "config.yaml", "--fast-dev-run", cwd=tmp_path / "new"
    )
    assert "nothing was kept" in done.stdout
    assert "configs/mlp.py" in run(python, "-m", "aetheria", "models", cwd=tmp_path).stdout
    report = ["report", "runs/config/1", "runs/config/2", "--html", "page.html"]
    assert "2 runs" in run(python, "-m", "aetheria", *report, cwd=tmp_path).stdout

    answer = json.loads(run(python, "-c", PREDICT, cwd=tmp_path).stdout)
    assert answer["snapshot"] == "runs/config/2/checkpoints/snapshot_ep10"
    assert answer["shape"] == [5, 1] and answer["finite"]
    # Every module of ours came out of the wheel, the shipped models too.
    ours = [file for file in answer["files"] if Path(file).is_relative_to(python.parents[1])]
    assert len(answer["files"]) > 20 and ours == answer["files"]
    assert any(file.endswith("aetheria/models/mlp.py") for file in ours)


WITH_A_PACKAGE = """\
model_name: PackagedModel
data_name: packaged_data
epochs: 50
batch_size: 10
log_every_steps: 1
loggers: [packaged_logger]
callbacks: [{packaged_callback: {at_step: 2}}]
"""


@only_long  # what it adds by entry points, test_plugins shows
def test_a_package_installed_beside_it_adds_every_kind(python, tmp_path):
    """A model, a dataset, a logger and a callback, by entry points alone."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={python}"]
    (tmp_path / "config.yaml").write_text(WITH_A_PACKAGE)
    train = [python, "-m", "aetheria", "train", "config.yaml"]
    # The control: without the package.
    assert "got 'PackagedModel'" in run(*train, cwd=tmp_path, exit_code=2).stderr
    run(*pip, "install", "--no-deps", "--no-index", write_wheel(tmp_path), cwd=tmp_path)
    try:
        run(*train, cwd=tmp_path)
        shown = run(python, "-m", "aetheria", "models", "PackagedModel", cwd=tmp_path).stdout
        assert "width" in shown
    finally:
        run(*pip, "uninstall", "--yes", "aetheria-extra", cwd=tmp_path)
    folder = tmp_path / "runs/config/1"
    assert "hello RunEnded" in (folder / "chatty.txt").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["reason"] == "that is enough" and summary["steps"] < 200
