"""Child runs: `aetheria train` in a child process, and what can be compared of its outcome."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aetheria.engine.interfaces import Snapshot
from aetheria.engine.record import SnapshotRecord
from aetheria.errors import AetheriaError, ExitCode
from aetheria.hardware.hidden_gpus import hide_gpus
from aetheria.hardware.virtual_devices import flags_for_devices
from aetheria.observe.loggers.records import RATES
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.finding import find_snapshot
from aetheria.snapshots.manifest import part_sha256
from aetheria.snapshots.run_folder import CHECKPOINTS
from aetheria.snapshots.store import list_snapshots


@dataclass(frozen=True)
class Evidence:
    """The outcome of a run, bit for bit.

    Attributes:
        metrics: the lines of `metrics.jsonl`, in order, without the speed.
        digests: part of the state, such as `params`, -> sha256 of its bytes at the end.
        record: the record of the last snapshot; None: it is not known.
        initial: like digests, at step 0; empty if the run took no snapshot there.
    """

    metrics: tuple[Mapping[str, Any], ...]
    digests: Mapping[str, str]
    record: SnapshotRecord | None = None
    initial: Mapping[str, str] = field(default_factory=dict)

    def differs_from(self, other: "Evidence", parts: Sequence[str] | None = None) -> str | None:
        """The name of the first difference in the initial state, the metrics or the given parts of
        the state (None: all parts); None if there is no difference.
        """
        for part, digest in self.initial.items():
            if digest != other.initial.get(part):
                return f"{part} at step 0"
        for mine, others in zip(self.metrics, other.metrics, strict=False):
            for name in mine:
                if mine[name] != others.get(name):
                    return f"{mine['split']}/{name} at step {mine['step']}"
        if len(self.metrics) != len(other.metrics):
            return f"{len(self.metrics)} metric lines instead of {len(other.metrics)}"
        parts = list(self.digests) if parts is None else parts
        return next((p for p in parts if self.digests[p] != other.digests.get(p)), None)


@dataclass(frozen=True)
class Place:
    """The hardware that a run uses.

    Attributes:
        devices: the number of devices; None: as the config and the environment say.
        processes: the number of processes that share them.
        threads: the number of CPU threads; None: XLA's default, which depends on the cores.
        mesh: axis -> size; None: all devices on the axis `data`.
        cores: how many of the cores that this process may use; None: all.
    """

    devices: int | None = None
    processes: int = 1
    threads: int | None = None
    mesh: Mapping[str, int] | None = None
    cores: int | None = None

    @property
    def name(self) -> str:
        """`8`, or `2 x 4` for two processes with four devices each; with a mesh, its axes."""
        if self.devices is None:
            return "here"
        name = str(self.devices)
        if self.processes > 1:
            name = f"{self.processes} x {self.devices // self.processes}"
        if self.mesh is not None:
            name += f" ({_axes(self.mesh, '=')})"
        if self.cores is not None:
            name += f" ({self.cores} core{'s' if self.cores > 1 else ''})"
        return name if self.threads is None else f"{name} ({self.threads} threads)"

    @property
    def phrase(self) -> str:
        """The place in an error message."""
        return "" if self.devices is None else f" on {self.name} device(s)"

    @property
    def settings(self) -> list[str]:
        """The mesh as `key=value` overrides."""
        if self.devices is None:
            return []
        return [f"mesh={{{_axes(self.mesh or {'data': self.devices}, ': ')}}}"]

    @property
    def ranks(self) -> range:
        return range(self.processes)

    def options(self) -> Iterator[list[str]]:
        """The flags of each process that describe the others."""
        if self.processes == 1:
            yield []
            return
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for rank in self.ranks:
            yield [
                f"--coordinator=127.0.0.1:{port}",
                f"--num-processes={self.processes}",
                f"--process-id={rank}",
            ]

    def environment(self) -> dict[str, str]:
        """The environment variables: a CPU simulates the requested number of devices."""
        # With a cache, a row could run the program that was compiled for another row.
        own = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        if self.devices is None:
            return own
        hide_gpus(own)
        flags = flags_for_devices(os.environ, self.devices // self.processes)
        threads = {} if self.threads is None else {"NPROC": str(self.threads)}  # read by XLA
        return {**own, "XLA_FLAGS": flags, **threads}


@dataclass(frozen=True, kw_only=True)
class ChildRun:
    """Trains `config_file` in a folder, on some devices, up to a step.

    Attributes:
        config_file: the config.
        overrides: `key=value` texts on top of it.
        workdir: the run folder.
        project: the project folder; None: found from the config file.
    """

    config_file: Path
    overrides: Sequence[str]
    workdir: Path
    project: str | Path | None

    def train(self, place: Place, *, to_step: int, resume: str | None = None) -> None:
        """Trains up to a step or to the end of the schedule; `resume` is the value of `--resume`.

        Raises:
            AetheriaError: a process ended with another exit code.
        """
        self.execute(
            place,
            f"--stop-at-step={to_step}",
            resume=resume,
            wanted=(ExitCode.OK, ExitCode.PREEMPTED),
            goal=f"reach step {to_step}",
        )

    def execute(
        self, place: Place, *options: str, resume: str | None, wanted: Sequence[int], goal: str
    ) -> None:
        """Runs the process or the processes to their end.

        Args:
            place: the hardware.
            options: further options of `aetheria train`.
            resume: the value of `--resume`; None: start afresh.
            wanted: the expected exit codes; the negative number of a signal for a killed process.
            goal: what these exit codes mean, for an error message.

        Raises:
            AetheriaError: a process ended with another exit code.
        """
        command = [sys.executable, "-m", "aetheria", "train", str(self.config_file)]
        command += [f"--workdir={self.workdir}"]
        command += [f"--project={self.project}"] if self.project else []
        for setting in (*self.overrides, *place.settings):
            command += ["--set", setting]
        command += [*options, *([f"--resume={resume}"] if resume else [])]
        # Files, not pipes: nothing reads the pipes while this process waits for the others.
        with contextlib.ExitStack() as stack:
            outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in place.ranks]
            with _limited_to_cores(place.cores):
                processes = [
                    subprocess.Popen(
                        [*command, *options], env=place.environment(), stdout=o, stderr=o
                    )
                    for options, o in zip(place.options(), outputs, strict=True)
                ]
            codes = [process.wait() for process in processes]
            for code, output in zip(codes, outputs, strict=True):
                if code not in wanted:
                    output.seek(0)
                    raise AetheriaError(
                        f"run{place.phrase}: expected it to {goal}, got exit code "
                        f"{code}: {_last_line(output.read())}"
                    )

    def evidence(self) -> Evidence:
        """Reads the outcome of the run."""
        lines = (self.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics = [json.loads(line) for line in lines]
        for line in metrics:
            for name in RATES:
                line.pop(name, None)
        snapshot = read_snapshot(find_snapshot(str(self.workdir), []))
        first = list_snapshots(self.workdir / CHECKPOINTS)[0]
        initial = _digests(read_snapshot(first.path)) if first.step == 0 else {}
        return Evidence(tuple(metrics), _digests(snapshot), snapshot.record, initial)


def count_cores() -> int:
    """The number of cores that this process may use; 1 if a child cannot be limited to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else 1


def short_digest(digest: str) -> str:
    """The first digits, enough to distinguish two digests in a table."""
    return digest[:12]


def _digests(snapshot: Snapshot) -> dict[str, str]:
    parts = dict.fromkeys(path.split("/")[0] for path in snapshot.arrays)
    return {part: part_sha256(snapshot.arrays, part) for part in parts}


@contextlib.contextmanager
def _limited_to_cores(count: int | None) -> Iterator[None]:
    """Limits child processes started inside the block to the first `count` cores; None: all."""
    if count is None:
        yield
        return
    cores = os.sched_getaffinity(0)  # of this thread; a child inherits it
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _axes(mesh: Mapping[str, int], sign: str) -> str:
    return ", ".join(f"{axis}{sign}{size}" for axis, size in mesh.items())


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
