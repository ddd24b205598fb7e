"""A listener that notes when training metrics arrive, and what was measured."""

import time
from typing import Any

from aetheria.observe.bus import EventBus
from benchmarks.report import Times


class Clock:
    """Notes step -> (times, loss, seconds in listeners so far) of every report; the first one
    follows compilation.
    """

    marks: dict[int, tuple[Times, float, float]] = {}  # noqa: RUF012 - one run a process
    listening = 0.0

    def __init__(self, context: Any):
        pass

    def notify(self, event: Any) -> None:
        if type(event).__name__ == "TrainMetrics":
            self.marks[event.progress.step] = Times.now(), event.metrics["loss"], Clock.listening


def time_listeners() -> None:
    """Makes the loop add to `Clock.listening` the seconds for which listeners keep it."""
    emit = EventBus.emit

    def timed(bus: EventBus, event: Any) -> None:
        started_at = time.perf_counter()
        emit(bus, event)
        Clock.listening += time.perf_counter() - started_at

    EventBus.emit = timed  # type: ignore[method-assign]
