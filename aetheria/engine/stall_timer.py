"""What the loop waits for that its phases do not tell apart: data, and the compiler."""

import contextlib
import time
from collections.abc import Iterator

from aetheria.engine.heartbeat import Activity
from aetheria.events import Waited


class Waits:
    """Adds up seconds from the first step of this process on, and says what is waited for."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._data_seconds = self._compile_seconds = 0.0
        self._called: set[str] = set()

    @contextlib.contextmanager
    def for_data(self) -> Iterator[None]:
        began, before = time.perf_counter(), self._activity.doing
        self._activity.turn_to("waiting for data")
        yield
        self._activity.turn_to(before)
        self._data_seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def for_compiler(self, call: str) -> Iterator[None]:
        """The first call of a kind is traced and compiled before it returns, and only dispatched;
        later ones are dispatched alone.
        """
        self._activity.beats += 1
        if call in self._called:
            yield
            return
        self._called.add(call)
        began, before = time.perf_counter(), self._activity.doing
        self._activity.turn_to("compiling", unbounded=True)
        yield
        self._activity.turn_to(before)
        self._compile_seconds += time.perf_counter() - began

    def told(self) -> Waited:
        """So far, for an event."""
        return Waited(data_seconds=self._data_seconds, compile_seconds=self._compile_seconds)
