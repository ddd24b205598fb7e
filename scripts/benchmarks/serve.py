"""What `aetheria serve` answers under load, beside an echo that computes nothing and KServe's
Python server with the same model: all run at once, and the load goes to one after the other.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.cli.train import TrainCommand
from aetheria.tools.weights.export_command import ExportCommand
from benchmarks.aetheria_run import make_config
from benchmarks.load import ask_once, free_port, infer_requests, put_load

_SCRIPTS = Path(__file__).resolve().parents[1]
_PATH = "/v2/models/bench/infer"
_NUM_CONNECTIONS = (1, 16)
_NUM_REQUESTS = 2000
_SECONDS_TO_START = 200


def measure_serve(
    spec: Mapping[str, Any],
    folder: Path,
    num_rounds: int,
    peers: Path | None,
    launcher: Sequence[str],
    say: Callable[[str], None],
) -> list[dict[str, dict[str, dict[str, float]]]]:
    """Measures rounds: server -> load such as `json, 16 connections` -> figures.

    Raises:
        AetheriaError: the model cannot be trained or exported.
        RuntimeError: a server does not start, or answers wrongly.
    """
    with np.load(spec["data"]) as columns:
        row = columns["inputs"][:1].astype(np.float32)
    rounds: list[dict[str, dict[str, dict[str, float]]]] = []
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, command in _commands(spec, folder, peers).items():
            ports[name] = stack.enter_context(_server(name, [*launcher, *command], folder))
        _check_equal(ports, infer_requests(_PATH, row)["json"])
        for number in range(num_rounds + 1):  # the first warms up and does not count
            say(f"serving: round {number} of {num_rounds}")
            rounds.append({name: _measure(port, row) for name, port in ports.items()})
    return rounds[1:]


def _commands(spec: Mapping[str, Any], folder: Path, peers: Path | None) -> dict[str, list[str]]:
    """Trains and exports a model; returns how each server is started, without its port."""
    file = folder / "bench.json"
    short = {"num_steps": 0, "snapshot_every": 10, "changes": {}, **spec}
    file.write_text(json.dumps(make_config(short)))
    run = folder / "run"
    with contextlib.redirect_stdout(sys.stderr):  # stdout holds figures alone
        TrainCommand(config_file=file, workdir=run, stop_at_step=2).execute()
    python = [sys.executable, "-m"]
    commands = {
        "aetheria": [*python, "aetheria", "serve", f"bench={run}", "--port"],
        "echo": [*python, "benchmarks.echo"],
    }
    if peers is not None:
        export = folder / "export"
        with contextlib.redirect_stdout(sys.stderr):
            ExportCommand(snapshot=str(run), to=export, format="stablehlo").execute()
        of_peer = str(peers / "kserve" / "bin" / "python")
        commands["kserve"] = [of_peer, "-m", "benchmarks.peers.kserve_server", str(export)]
    return commands


@contextlib.contextmanager
def _server(name: str, command: Sequence[str], folder: Path) -> Iterator[int]:
    """Runs a server; gives its port when it listens."""
    port, log = free_port(), folder / f"{name}.log"
    environment = {**os.environ, "PYTHONPATH": str(_SCRIPTS), "JAX_PLATFORMS": "cpu"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(port)], stdout=output, stderr=output, env=environment
        )
    try:
        _wait(name, process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _SECONDS_TO_START
    probe = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            ask_once(port, probe)
            return
        time.sleep(0.1)
    raise RuntimeError(f"{name}: expected a server, got none; it said\n{log.read_text()[-2000:]}")


def _check_equal(ports: Mapping[str, int], request: bytes) -> None:
    """Raises RuntimeError if two servers of the model answer differently: it would be no race."""
    answers = {
        name: np.float32(json.loads(ask_once(port, request))["outputs"][0]["data"]).ravel()
        for name, port in ports.items()
        if name != "echo"
    }
    first = answers["aetheria"]
    for name, answer in answers.items():
        if not np.allclose(first, answer, rtol=1e-5, atol=1e-6):
            raise RuntimeError(f"{name}: expected the outputs {first}, got {answer}")


def _measure(port: int, row: np.ndarray) -> dict[str, dict[str, float]]:
    figures = {}
    for kind, request in infer_requests(_PATH, row).items():
        for num_connections in _NUM_CONNECTIONS:
            load = put_load(port, request, num_connections, _NUM_REQUESTS)
            figures[f"{kind}, {num_connections} connections"] = {
                "requests_per_second": len(load.latencies) / load.seconds,
                "p50": float(np.percentile(load.latencies, 50)),
                "p99": float(np.percentile(load.latencies, 99)),
            }
    return figures
