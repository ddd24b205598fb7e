"""SIGTERM, SIGINT and SIGUSR1 become a request to stop at the next step boundary."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from aetheria.errors import ExitCode
from aetheria.protocols import StopSignal


@contextmanager
def stop_on_signals(stop: StopSignal) -> Iterator[None]:
    """Installs the handlers for the time of a run, and puts the old ones back.

    The handler only sets a flag: a snapshot taken inside a handler can hang. A second signal ends
    the process at once. Outside the main thread, where Python allows no handlers, does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(ExitCode.PREEMPTED)
        received.append(number)
        stop.request(f"signal {signal.Signals(number).name}", preempt=True)

    previous = {number: signal.signal(number, handle) for number in stop.signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
