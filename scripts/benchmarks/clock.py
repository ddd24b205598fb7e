"""A listener that notes when training metrics arrive, and what was measured."""

from typing import Any

from benchmarks.report import Times


class Clock:
    """Notes step -> (times, loss) of every report; the first one follows compilation."""

    marks: dict[int, tuple[Times, float]] = {}  # noqa: RUF012 - one run a process

    def __init__(self, context: Any):
        pass

    def notify(self, event: Any) -> None:
        if type(event).__name__ == "TrainMetrics":
            self.marks[event.progress.step] = (Times.now(), event.metrics["loss"])
