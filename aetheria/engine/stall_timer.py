"""What the loop waits for that its phases do not tell apart: data, and the compiler."""

import contextlib
import time
from collections.abc import Iterator

from aetheria.engine.heartbeat import Heartbeat
from aetheria.events import StallTime


class StallTimer:
    """Adds up seconds from the first step of this process on, and says what is waited for."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._data_seconds = self._compile_seconds = 0.0
        self._called: set[str] = set()

    @contextlib.contextmanager
    def for_data(self) -> Iterator[None]:
        started_at, before = time.perf_counter(), self._heartbeat.doing
        self._heartbeat.enter("waiting for data")
        yield
        self._heartbeat.enter(before)
        self._data_seconds += time.perf_counter() - started_at

    @contextlib.contextmanager
    def for_compiler(self, call: str) -> Iterator[None]:
        """The first call of a kind is traced and compiled before it returns, and only dispatched;
        later ones are dispatched alone.
        """
        self._heartbeat.count += 1
        if call in self._called:
            yield
            return
        self._called.add(call)
        started_at, before = time.perf_counter(), self._heartbeat.doing
        self._heartbeat.enter("compiling", no_timeout=True)
        yield
        self._heartbeat.enter(before)
        self._compile_seconds += time.perf_counter() - started_at

    def told(self) -> StallTime:
        """So far, for an event."""
        return StallTime(data_seconds=self._data_seconds, compile_seconds=self._compile_seconds)
