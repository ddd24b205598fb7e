"""Shared by all tests: eight virtual devices, and two ways to train as a user does."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # read when jax starts
# What one test has compiled, no other compiles again, in whatever process; for this check alone, so
# that nothing of yesterday's code is in it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="aetheria-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

REPOSITORY = Path(__file__).resolve().parent.parent

DIGITS = {
    "model_name": "SimpleMLP",
    "model_params": {"input_dim": 64, "hidden_dim": 16, "num_classes": 10, "dropout": 0.1},
    "data_name": "digits",
    "epochs": 2,
    "batch_size": 64,
    "learning_rate": 0.003,
    "strategy": "cpu",
    "loggers": ["jsonl"],
}


def train_step(program: Any, state: Any, global_batch: dict[str, Any], since: Any = None) -> Any:
    """Takes one step of a program, on one window; `since` is the report to add to."""
    chunk = {name: column[None] for name, column in global_batch.items()}
    return program.train_steps(state, chunk, 0, 1, since)


def without_rate(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metric lines but for the speed, the one value that no two runs share."""
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in metrics]


def make_spec(global_batch: dict[str, Any], **changes: Any) -> Any:
    """What a program of a test is compiled for: a short run, of which little matters."""
    from aetheria.hardware.layout.program_spec import ProgramSpec

    settings = {"total_steps": 10, "seed": 0, "mixed_precision": False, "max_consecutive_skips": 3}
    return ProgramSpec(example_global_batch=global_batch, **{**settings, **changes})


@dataclass(frozen=True)
class Finished:
    """A run that ended: its exit code and its folder."""

    exit_code: int
    run_dir: Path

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "summary.json").read_text())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """An elastic run in this process sets the number of threads, also of what the next test starts
    in a process of its own.
    """
    from aetheria.hardware.jax.cpu.threads import BLAS_THREADS

    names = ("NPROC", *BLAS_THREADS)
    before = {name: os.environ[name] for name in names if name in os.environ}
    yield
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Finished]:
    """Trains in this process: `train("name", resume="latest", epochs=3)` into tmp_path/name.

    Keyword arguments that are fields of TrainCommand are its options; any other is a key of the
    config, on top of DIGITS.
    """

    def run(name: str = "run", **changes: Any) -> Finished:
        from aetheria.cli.train import TrainCommand

        names = ("resume", "overwrite", "accept_changes", "project", "stop_at_step")
        options = {key: changes.pop(key) for key in names if key in changes}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**DIGITS, **changes}))
        run_dir = tmp_path / name
        command = TrainCommand(config_file=file, workdir=run_dir, **options)
        return Finished(command.execute(), run_dir)

    return run


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m MODULE ARGUMENTS` in a process of its own, in tmp_path, on one device."""

    def run(*arguments: str, module: str = "aetheria", **options: Any) -> Any:
        environment = {**os.environ, "XLA_FLAGS": ""}
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            **{
                "cwd": tmp_path,
                "env": environment,
                "capture_output": True,
                "text": True,
                **options,
            },
            timeout=300,
            check=False,
        )

    return run
