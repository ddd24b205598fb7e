"""Child runs: `aetheria train` in a process of its own, and what of its outcome can be compared."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aetheria.errors import AetheriaError, ExitCode
from aetheria.resilience import read_snapshot
from aetheria.resilience.manifest import part_sha256
from aetheria.resilience.runs import find_snapshot

_PARTS = ("params", "opt_state", "model_state", "loss_scale")
_DEVICE_FLAG = "--xla_force_host_platform_device_count"


@dataclass(frozen=True)
class Evidence:
    """What a run did, bit for bit.

    Attributes:
        metrics: a line for each report, in order: everything but the speed.
        digests: part of the state -> sha256 of its bytes at the end.
    """

    metrics: tuple[Mapping[str, Any], ...]
    digests: Mapping[str, str]

    def differs_from(self, other: "Evidence") -> str | None:
        """Names the first difference; None if there is none."""
        for mine, others in zip(self.metrics, other.metrics, strict=False):
            for name in mine:
                if mine[name] != others.get(name):
                    return f"{mine['split']}/{name} at step {mine['step']}"
        if len(self.metrics) != len(other.metrics):
            return f"{len(self.metrics)} metric lines instead of {len(other.metrics)}"
        return next((p for p in self.digests if self.digests[p] != other.digests[p]), None)


@dataclass(frozen=True, kw_only=True)
class ChildRun:
    """Trains `config_file` in a folder, on a number of devices, up to a step.

    Attributes:
        config_file: the config.
        overrides: `key=value` texts on top of it.
        workdir: the run folder.
        project: the project folder; None: found from the config file.
    """

    config_file: Path
    overrides: Sequence[str]
    workdir: Path
    project: Path | None

    def train(self, *, devices: int, to_step: int, resume: bool = False) -> None:
        """Runs the process to its end.

        Raises:
            AetheriaError: it ended otherwise than at `to_step` or at the end of its schedule.
        """
        settings = [*self.overrides, f"mesh={{data: {devices}}}"]
        command = [sys.executable, "-m", "aetheria", "train", str(self.config_file)]
        command += [f"--workdir={self.workdir}", f"--stop-at-step={to_step}"]
        command += [f"--project={self.project}"] if self.project else []
        command += ["--resume=latest"] if resume else []
        for setting in settings:
            command += ["--set", setting]
        done = subprocess.run(
            command, env=_environment(devices), capture_output=True, text=True, check=False
        )
        if done.returncode not in (ExitCode.OK, ExitCode.PREEMPTED):
            raise AetheriaError(
                f"run on {devices} device(s): expected it to reach step {to_step}, got exit code "
                f"{done.returncode}: {_last_words(done.stderr)}"
            )

    def evidence(self) -> Evidence:
        """Reads what the run left behind."""
        lines = (self.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics = [json.loads(line) for line in lines]
        for line in metrics:
            line.pop("steps_per_second", None)
        arrays = read_snapshot(find_snapshot(str(self.workdir), [])).arrays
        return Evidence(tuple(metrics), {part: part_sha256(arrays, part) for part in _PARTS})


def _environment(devices: int) -> dict[str, str]:
    """The CPU stands for as many devices as are asked for; accelerators are counted as they are."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith(_DEVICE_FLAG)]
    return {**os.environ, "XLA_FLAGS": " ".join([*flags, f"{_DEVICE_FLAG}={devices}"])}


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
