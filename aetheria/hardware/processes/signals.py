"""Turns SIGTERM, SIGINT and SIGUSR1 into a request to stop at the next step boundary."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from aetheria.engine.stop import StopSignal
from aetheria.errors import ExitCode

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


def leave_at_once(number: int) -> NoReturn:
    """What a second signal does in a process that is there for the run alone."""
    os._exit(ExitCode.PREEMPTED)


def raise_at_once(number: int) -> NoReturn:
    """What a second signal does in a process that goes on after the run."""
    raise KeyboardInterrupt(f"a second signal, {signal.Signals(number).name}")


def ignore_signal(number: int) -> None:
    """Says nothing of a first signal."""


def tell_of_signal(number: int) -> None:
    """Says on stderr, in one line, what a first signal does, and what a second one would.

    It writes to the descriptor: the signal may have interrupted code that is writing to the stream,
    which a second write would break. In a terminal, the line replaces a live bar, which is drawn
    again below it; and the cursor is shown, which the bar hides and a second signal would not show.
    """
    name = signal.Signals(number).name
    text = (
        f"{name}: a snapshot is being written; a second signal ends the run at once, without it\n"
    )
    with contextlib.suppress(OSError, ValueError):  # such as a closed stderr
        erase = "\r\x1b[2K\x1b[?25h" if os.isatty(2) and os.environ.get("TERM") != "dumb" else ""
        os.write(2, f"{erase}{text}\n".encode())


@contextmanager
def stop_on_signals(
    stop: StopSignal,
    again: Callable[[int], NoReturn] = leave_at_once,
    tell: Callable[[int], None] = ignore_signal,
) -> Iterator[None]:
    """Installs the signal handlers during a run, and restores the old ones after it.

    The handler only requests a stop: a snapshot inside a handler could hang. Python allows handlers
    in the main thread only; elsewhere none are installed.

    Args:
        stop: receives the request; it is closed at the end.
        again: called with the number of a second signal.
        tell: called with the number of the first.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            again(number)
        received.append(number)
        stop.request(f"signal {signal.Signals(number).name}", preempt=True)
        tell(number)

    with _handling(handle):
        try:
            yield
        finally:
            stop.close()


@contextmanager
def leave_on_signals(free: Callable[[], None]) -> Iterator[None]:
    """Makes a signal end the process at once, with the exit code of a preemption.

    It is for the time before and after a run, when there is no run that could be stopped.

    Args:
        free: releases what the process holds, such as a run folder.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            free()
        finally:  # even if `free` raises because the signal interrupted what it needs
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
