"""Builds the model that a file describes, within a time limit.

A file that someone else wrote may describe a model that takes for ever to build.
"""

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from aetheria.errors import AetheriaError, SnapshotError
from aetheria.plugins.user_code import user_frames

Made = TypeVar("Made")

# Tracing a layer of the largest models takes a few milliseconds, on a slow machine some tens.
SECONDS = 10.0
_SECONDS_PER_ARRAY = 0.1
_SECONDS_BETWEEN = 0.2
_NUM_INSTRUCTIONS = 1000  # a raised exception arrives within a few instructions


class _Stopped(BaseException):
    """Raised in a thread by another. Not an `Exception`, so that user code does not catch it."""


class _Stopper(threading.Thread):
    """A thread that raises `_Stopped` in the thread that made it, after some seconds.

    It raises repeatedly until it is ended, because an exception inside a destructor is lost.
    """

    def __init__(self, seconds: float):
        super().__init__(daemon=True)
        self._seconds, self._ended = seconds, threading.Event()
        self._target = ctypes.c_ulong(threading.get_ident())
        self._reported_before = sys.unraisablehook

    def run(self) -> None:
        if self._ended.wait(self._seconds):
            return
        sys.unraisablehook = self._report
        while not self._ended.is_set():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._target, ctypes.py_object(_Stopped))
            self._ended.wait(_SECONDS_BETWEEN)
        sys.unraisablehook = self._reported_before

    def _report(self, unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is not _Stopped:
            self._reported_before(unraisable)

    def end(self) -> None:
        """Stops raising, and waits for an exception that has not arrived yet.

        `PyThreadState_SetAsyncExc(thread, NULL)` would cancel that exception, but from then on the
        interpreter looks for one before every instruction (CPython 3.11).
        """
        self._ended.set()
        self.join()
        with contextlib.suppress(_Stopped):
            for _ in range(_NUM_INSTRUCTIONS):
                pass


def build_described(build: Callable[[], Made], where: str, num_arrays: int) -> Made:
    """Calls `build`, which makes the shapes of a model from hyperparameters in a file.

    A file may ask for 10^12 layers, and a loop over them in Python would not end. So after some
    time another thread raises an exception in this one.

    Args:
        build: makes the shapes.
        where: the name of the file in errors.
        num_arrays: the number of arrays in the file; each adds a tenth of a second to the limit.

    Raises:
        SnapshotError: the limit was reached, or the model cannot be built with the
            hyperparameters.
    """
    limit = SECONDS + _SECONDS_PER_ARRAY * num_arrays
    stopper = _Stopper(limit)
    stopper.start()
    try:
        try:
            return build()
        finally:
            stopper.end()
    except _Stopped:
        stopper.end()
        raise SnapshotError(
            f"{where}: expected model_params of a model with its {num_arrays} arrays, got ones "
            f"whose model was not made within {limit:g} s; use another file, or give model_params"
        ) from None
    except AetheriaError:
        raise
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        frame = (user_frames(error) or [None])[-1]
        place = "" if frame is None else f" ({frame.filename}:{frame.lineno})"
        raise SnapshotError(
            f"{where}: expected model_params that make a model, got {type(error).__name__}{place}: "
            f"{first_line}; use another file, or give model_params"
        ) from error
