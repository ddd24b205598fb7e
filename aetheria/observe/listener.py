"""Observer: what a logger or a callback is, and what it is given."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aetheria.engine.stop import StopSignal
from aetheria.events import Event


class Listener(Protocol):
    """Observer: anything with `notify`. Two optional methods make it part of the snapshot:
    `export_state() -> dict` (also the moment to flush) and `import_state(dict)`.
    """

    def notify(self, event: Event) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a logger or callback is given when it is made; it writes nothing before RunStarted.

    Attributes:
        run_dir: the run folder.
        config: the resolved config, plain values.
        stop: the way to ask for a stop.
        eval_metrics: what an evaluation will report, `eval/loss` style names.
        schedules: name -> value at a step, of the optimizer's hyperparameters that can be read.
        is_fork: the run continues another one's snapshot in a folder of its own; what identified
            that run to a service must not be used again.
        started_at: when the process began to work on it, in seconds since the epoch.
    """

    run_dir: Path
    config: Mapping[str, Any]
    stop: StopSignal
    eval_metrics: tuple[str, ...] = ()
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    is_fork: bool = False
    started_at: float = field(default_factory=time.time)
