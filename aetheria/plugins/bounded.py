"""Building what a file describes, for no longer than what it holds is worth."""

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from aetheria.errors import AetheriaError, SnapshotError
from aetheria.plugins.user_code import user_frames

Made = TypeVar("Made")

# A layer of the largest models is traced in a few milliseconds, on a slow machine in some ten.
SECONDS = 10.0
_SECONDS_PER_ARRAY = 0.1
_SECONDS_BETWEEN = 0.2
_INSTRUCTIONS = 1000  # it comes within a few


class _Stopped(BaseException):
    """Raised in a thread from outside; code that catches an Exception does not catch it."""


class _Stopper(threading.Thread):
    """Raises `_Stopped` in the thread that made it after some seconds, unless it is ended: again
    and again, since one that is raised in a destructor is lost.
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
        """Raises no more, and waits for what has not come yet.

        Not `PyThreadState_SetAsyncExc(thread, NULL)`, which takes it back: with that, the
        interpreter looks for one before every instruction from then on (CPython 3.11).
        """
        self._ended.set()
        self.join()
        with contextlib.suppress(_Stopped):
            for _ in range(_INSTRUCTIONS):
                pass


def build_described(build: Callable[[], Made], where: str, num_arrays: int) -> Made:
    """Calls `build`, which makes a model's shapes by hyperparameters that stand in a file.

    A number of layers of 10^12 is soon written, and no size refuses it: what loops over the layers
    in Python does not end. So it is stopped, in this thread, by an exception from another.

    Args:
        build: what makes them.
        where: what to call the file in errors.
        num_arrays: how many the file holds; each is worth a tenth of a second.

    Raises:
        SnapshotError: it took too long, or its hyperparameters make nothing.
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
        said = (str(error).splitlines() or [""])[0]
        frame = (user_frames(error) or [None])[-1]
        place = "" if frame is None else f" ({frame.filename}:{frame.lineno})"
        raise SnapshotError(
            f"{where}: expected model_params that make a model, got {type(error).__name__}{place}: "
            f"{said}; use another file, or give model_params"
        ) from error
