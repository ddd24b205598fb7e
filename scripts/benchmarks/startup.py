"""What a start costs: seconds until the first step is done, and the memory of a run of one step.

`by hand` is a script of one file; `cold` is `aetheria train CONFIG --set max_steps=1` on a machine
that has never trained this model, `warm` the same once more. Aetheria's runs also evaluate, save a
snapshot and write three logs, which is in their whole time and memory.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aetheria.build import build_feed, build_model
from aetheria.config.files import load_config

_ROOT = Path(__file__).resolve().parents[2]
WORKS = ("mlp", "cnn")


def measure_startup(
    work: str, num_rounds: int, launcher: Sequence[str], say: Callable[[str], None]
) -> list[dict[str, dict[str, float]]]:
    """Measures in turns; one round more warms up the system's file cache and does not count.

    Raises:
        AetheriaError: the data is not on this machine.
        subprocess.CalledProcessError: a process failed.
    """
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = _write_data(work, folder / "data.npz")
        for number in range(num_rounds + 1):
            say(f"startup of {work}: round {number} of {num_rounds}")
            home = folder / f"cache{number}"
            ours = _command(work, folder / f"run{number}")
            by_hand = [sys.executable, "-m", "benchmarks.startup_by_hand", work, str(data)]
            rounds.append(
                {
                    "by hand": _run([*launcher, *by_hand], home),
                    "cold": _run([*launcher, *ours, "--overwrite"], home),
                    "warm": _run([*launcher, *ours, "--overwrite"], home),
                }
            )
    return rounds[1:]


def _command(work: str, run_dir: Path) -> list[str]:
    settings = ["max_steps=1", "log_every_steps=1", "callbacks=['benchmarks.first_step:FirstStep']"]
    return [
        *(sys.executable, "-m", "aetheria", "train", str(_ROOT / "configs" / f"{work}.py")),
        *(word for setting in settings for word in ("--set", setting)),
        *("--workdir", str(run_dir)),
    ]


def _write_data(work: str, file: Path) -> Path:
    config = load_config(_ROOT / "configs" / f"{work}.py", ())
    train = build_feed(config, None, build_model(config, None)).splits.train
    columns = train.read(np.arange(len(train)))
    np.savez(file, inputs=columns["inputs"], labels=columns["labels"])
    return file


def _run(command: Sequence[str], home: Path) -> dict[str, float]:
    """Runs a process to its end; seconds, and MiB at its largest."""
    mark = home.with_suffix(".mark")
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT / "scripts"),
        "XDG_CACHE_HOME": str(home),
        "BENCH_FIRST_STEP": str(mark),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    started_at = time.time()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ended_at = time.time()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, printed)
    return {
        "first_step": float(mark.read_text()) - started_at,
        "whole": ended_at - started_at,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_rss_mib": usage.ru_maxrss / 1024,
    }
