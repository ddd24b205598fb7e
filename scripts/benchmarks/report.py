"""What every contestant's process is given and gives back. Imports the standard library alone,
since the peers' environments hold neither Aetheria nor JAX.
"""

import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_spec() -> dict[str, Any]:
    """Reads what to do from the file named on the command line."""
    return json.loads(Path(sys.argv[1]).read_text())


class Stopwatch:
    """Times what lies between `start`, after compilation and warm-up, and `stop`."""

    seconds = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._began


def write_speed(
    spec: dict[str, Any],
    *,
    num_steps: int,
    seconds: float,
    num_params: int,
    loss: float,
    packages: Sequence[str],
) -> None:
    """Writes a contestant's figures: its speed, its memory, and what shows that it did the work."""
    write(
        spec,
        {
            "steps_per_second": num_steps / seconds,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "num_params": num_params,
            "loss": loss,
            "versions": {name: importlib.metadata.version(name) for name in packages},
        },
    )


def write(spec: dict[str, Any], figures: dict[str, Any]) -> None:
    """Writes figures where the parent looks for them."""
    Path(spec["result"]).write_text(json.dumps(figures))
