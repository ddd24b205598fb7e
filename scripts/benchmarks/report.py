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
from typing import Any, NamedTuple


def read_spec() -> dict[str, Any]:
    """Reads what to do from the file named on the command line."""
    return json.loads(Path(sys.argv[1]).read_text())


class Times(NamedTuple):
    """Seconds on the wall, and seconds of all cores that this process used."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Times":
        return cls(time.perf_counter(), time.process_time())

    def since(self, started_at: "Times") -> "Times":
        return Times(self.wall - started_at.wall, self.cpu - started_at.cpu)


class Stopwatch:
    """Times what lies between `start`, after compilation and warm-up, and `stop`."""

    times = Times(0.0, 0.0)

    def start(self) -> None:
        self._started_at = Times.now()

    def stop(self) -> None:
        self.times = Times.now().since(self._started_at)


def write_speed(
    spec: dict[str, Any],
    *,
    num_steps: int,
    times: Times,
    num_params: int,
    loss: float,
    packages: Sequence[str],
    listening: float = 0.0,
) -> None:
    """Writes a contestant's figures: its speed, its memory, and what shows that it did the work;
    and for what share of the time listeners kept the loop.
    """
    write(
        spec,
        {
            "steps_per_second": num_steps / times.wall,
            "cpu_ms_per_step": 1000 * times.cpu / num_steps,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "num_params": num_params,
            "loss": loss,
            "listening": listening,
            "versions": {name: importlib.metadata.version(name) for name in packages},
        },
    )


def write(spec: dict[str, Any], figures: dict[str, Any]) -> None:
    """Writes figures where the parent looks for them."""
    Path(spec["result"]).write_text(json.dumps(figures))
