"""A callback that ends a run whose time is up."""

import threading
import time

from aetheria.config.json_types import JsonObject
from aetheria.errors import AetheriaError
from aetheria.events import Event, RunEnded, RunStarted
from aetheria.observe.listener import RunContext
from aetheria.plugins import register_callback


@register_callback("time_limit")
class TimeLimit:
    """Ends a run whose time is up, with a snapshot, after the steps that are queued.

    The time of a start begins with its process, so reading data and compiling count. The time of
    the starts before is in the snapshot; what a killed start did after its last snapshot is not.

    Args:
        context: what every callback is given.
        max_seconds: of all starts of the run together: the run is then complete (exit code 0), as
            with the Timer of Lightning.
        max_seconds_per_start: of this start alone: the run then leaves with exit code 75, as after
            a signal of SLURM, to be resumed by the next start.

    Raises:
        AetheriaError: neither is given, or one is not above 0.
    """

    def __init__(
        self,
        context: RunContext,
        max_seconds: float | None = None,
        max_seconds_per_start: float | None = None,
    ):
        given = [each for each in (max_seconds, max_seconds_per_start) if each is not None]
        if not given or not all(each > 0 for each in given):
            raise AetheriaError(
                "time_limit: expected max_seconds or max_seconds_per_start above 0, got "
                f"{max_seconds} and {max_seconds_per_start}; change them in callbacks"
            )
        self._stop, self._total, self._per_start = context.stop, max_seconds, max_seconds_per_start
        self._began = time.monotonic() - max(0.0, time.time() - context.started_at)
        self._seconds_before = 0.0
        self._timers: list[threading.Timer] = []

    def notify(self, event: Event) -> None:
        """Sets the timers when the run starts, and stops them when it ends.

        Threads, not the events: between two events may lie hours.
        """
        if isinstance(event, RunStarted):
            if self._total is not None:
                left = self._total - self._seconds_before
                self._after(left, f"time limit: {self._total:g} seconds of training", False)
            if self._per_start is not None:
                reason = f"time limit: {self._per_start:g} seconds of this start"
                self._after(self._per_start, reason, True)
        elif isinstance(event, RunEnded):
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()

    def export_state(self) -> JsonObject:
        """The seconds of all starts up to now."""
        return {"seconds": self._seconds_before + time.monotonic() - self._began}

    def import_state(self, state: JsonObject) -> None:
        """Takes the seconds of the starts before; a rollback takes no time back."""
        if not self._timers:
            self._seconds_before = state["seconds"]

    def _after(self, seconds: float, reason: str, preempt: bool) -> None:
        left = seconds - (time.monotonic() - self._began)
        if left <= 0:
            self._stop.request(reason, preempt=preempt)
            return
        timer = threading.Timer(
            min(left, threading.TIMEOUT_MAX),
            self._stop.request,
            [reason],
            {"preempt": preempt},
        )
        timer.daemon = True
        timer.start()
        self._timers.append(timer)
