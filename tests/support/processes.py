"""Runs of several real processes, started as a user would start them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from aetheria.tools.prove.runs import Place
from support.compile_cache import own_cache
from support.runs import DIGITS, TESTS

ELASTIC = {**DIGITS, "reproducibility": "elastic", "strategy": "mesh", "loggers": ["jsonl"]}


class ProcessStarter:
    """Starts the processes of a run in a folder, and kills those left over in the end.

    `starter(2, epochs=3, options=["--stop-at-step=5"])` trains ELASTIC with two processes into
    `run`; keyword arguments change the config, and `module` what is started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen] = []

    def __call__(
        self,
        count: int,
        *,
        devices_each: int = 1,
        options: tuple[str, ...] | list[str] = (),
        ranks: list[int] | None = None,
        module: str = "aetheria",
        **changes: Any,
    ) -> list[subprocess.Popen]:
        file = self._folder / "config.yaml"
        file.write_text(yaml.safe_dump({**ELASTIC, **changes}))
        groups = list(Place(count, count).options())
        devices = f"--xla_force_host_platform_device_count={devices_each}"
        processes, compiled = [], own_cache(self._folder / "compiled")
        for rank in range(count) if ranks is None else ranks:
            command = [sys.executable, "-m", module, "train", str(file), "--workdir=run"]
            process = subprocess.Popen(
                [*command, *groups[rank], *options],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": str(TESTS), "XLA_FLAGS": devices, **compiled},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
        self._started.extend(processes)
        return processes

    def kill_all(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()


def ends(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Exit codes and error output of processes, when all have ended."""
    texts = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], texts


def own_lines(text: str) -> list[str]:
    """What the software itself prints; the collective library prints its connections."""
    return [line for line in text.splitlines() if line and not line.startswith("[Gloo]")]
