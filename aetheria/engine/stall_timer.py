"""How long the loop waits for data and for the compiler, which its phases do not separate."""

import contextlib
import time
from collections.abc import Iterator

from aetheria.engine.heartbeat import Heartbeat
from aetheria.events import StallTime


class StallTimer:
    """Adds up seconds from the first step of this process on, and updates the heartbeat."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._data_seconds = self._compile_seconds = 0.0
        self._called: set[str] = set()

    @contextlib.contextmanager
    def for_data(self) -> Iterator[None]:
        """The block waits for data."""
        started_at, before = time.perf_counter(), self._heartbeat.doing
        self._heartbeat.enter("waiting for data")
        yield
        self._heartbeat.enter(before)
        self._data_seconds += time.perf_counter() - started_at

    @contextlib.contextmanager
    def for_compiler(self, call: str) -> Iterator[None]:
        """The block calls a compiled function: the first call of a kind traces and compiles before
        it returns, the later ones only dispatch.
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

    def totals(self) -> StallTime:
        """The seconds so far, for an event."""
        return StallTime(data_seconds=self._data_seconds, compile_seconds=self._compile_seconds)
