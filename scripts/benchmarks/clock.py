"""A listener that notes when training metrics arrive, and what was measured."""

import time
from typing import Any


class Clock:
    """Notes step -> (seconds, loss) of every report; the first one follows compilation."""

    marks: dict[int, tuple[float, float]] = {}  # noqa: RUF012 - one run a process

    def __init__(self, context: Any):
        pass

    def notify(self, event: Any) -> None:
        if type(event).__name__ == "StepsCompleted":
            self.marks[event.progress.step] = (time.perf_counter(), event.metrics["loss"])
