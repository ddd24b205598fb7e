"""SIGTERM, SIGINT and SIGUSR1 become a request to stop at the next step boundary."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from aetheria.engine.stop import StopSignal
from aetheria.errors import ExitCode

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


@contextmanager
def stop_on_signals(stop: StopSignal) -> Iterator[None]:
    """Installs the handlers for the time of a run, and puts the old ones back.

    The handler only sets a flag: a snapshot taken inside a handler can hang. A second signal ends
    the process at once. Outside the main thread Python allows no handlers, and none are installed.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(ExitCode.PREEMPTED)
        received.append(number)
        stop.request(f"signal {signal.Signals(number).name}", preempt=True)

    with _handling(handle):
        try:
            yield
        finally:
            stop.close()


@contextmanager
def leave_on_signals(free: Callable[[], None]) -> Iterator[None]:
    """Before there is a run that could stop, and after: a signal ends the process at once, and says
    that there is something to go on with.

    Args:
        free: gives back what the process holds, such as a run folder.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            free()
        finally:  # whatever was under way, such as taking the folder
            os._exit(ExitCode.PREEMPTED)

    with _handling(handle):
        yield


@contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    can_handle = threading.current_thread() is threading.main_thread()
    previous = {n: signal.signal(n, handle) for n in (SIGNALS if can_handle else ())}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
