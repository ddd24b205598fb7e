"""Runs a contestant in a process whose stdout is a terminal, so that live bars are at work."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant

_SCRIPTS = Path(__file__).resolve().parents[1]
_WARMUP = 10  # steps before the clock starts, compilation among them


class ContestantError(Exception):
    """A contestant's process failed; the message holds the end of what it printed."""


def measure(
    name: str,
    contestant: Contestant,
    spec: dict[str, Any],
    peers: Path | None,
    launcher: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs a contestant once and returns what it wrote.

    Args:
        name: for errors.
        contestant: who.
        spec: the work (see `works.describe`), its name and number of steps, and `device`.
        peers: the folder of the peers' environments.
        launcher: words before the command, such as `taskset -c 0,1`.

    Raises:
        ContestantError: it did not end with 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, order = Path(folder) / "result.json", Path(folder) / "spec.json"
        whole = {"warmup": _WARMUP, "changes": dict(contestant.changes), "folder": folder}
        if contestant.environ and spec["device"] == "cpu":
            whole["changes"]["strategy"] = "mesh"
        order.write_text(json.dumps({**spec, **whole, "result": str(result)}))
        module = f"benchmarks.{contestant.module}"
        command = [*launcher, _python(contestant, peers), "-m", module, str(order)]
        code, printed = _run(command, _environment(contestant, spec["device"]), folder)
        if code:
            raise ContestantError(f"{name}: expected exit code 0, got {code}; it said\n{printed}")
        return json.loads(result.read_text())


def _python(contestant: Contestant, peers: Path | None) -> str:
    if contestant.environment is None:
        return sys.executable
    assert peers is not None, "peers are left out without their folder"
    return str(peers / contestant.environment / "bin" / "python")


def _environment(contestant: Contestant, device: str) -> dict[str, str]:
    # Every start compiles, and leaves nothing for the next.
    own = {
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": str(_SCRIPTS),
        "TERM": "xterm",
        "COLUMNS": "100",
        "KERAS_BACKEND": "jax",
    }
    if device == "cpu":
        own |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **contestant.environ}
    return {**os.environ, **own}


def _run(command: Sequence[str], environment: dict[str, str], folder: str) -> tuple[int, str]:
    """Runs to the end; returns the exit code and the last of what was printed."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, stdout=follower, stderr=follower, env=environment, cwd=folder
    )
    os.close(follower)
    printed = bytearray()
    reader = threading.Thread(target=_drain, args=(leader, printed), daemon=True)
    reader.start()
    code = process.wait()
    reader.join()
    return code, printed[-3000:].decode(errors="replace")


def _drain(terminal: int, printed: bytearray) -> None:
    try:
        while chunk := os.read(terminal, 65536):
            printed += chunk
            del printed[:-65536]
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
