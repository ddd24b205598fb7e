"""How far a long prediction is, on stderr: a bar in a terminal, else a line every ten seconds."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_SECONDS_BETWEEN_LINES, _SECONDS_BETWEEN_BARS = 10.0, 0.2
_WIDTH = 30


class ProgressReport:
    """Counts rows and reports them; a short prediction reports nothing.

    Args:
        num_rows: how many there are; None: not known.
        done: how many an earlier start has written.
        stream: where to report; None: stderr.
        clock: seconds.
    """

    def __init__(
        self,
        num_rows: int | None,
        done: int = 0,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._num_rows, self._done, self._before, self._clock = num_rows, done, done, clock
        self._started_at = self._reported_at = clock()
        self._has_bar = False

    def add(self, num_rows: int) -> None:
        """Counts rows, and reports if it is time."""
        self._done += num_rows
        now = self._clock()
        every = _SECONDS_BETWEEN_BARS if self._is_terminal else _SECONDS_BETWEEN_LINES
        if now - self._reported_at >= every:
            self._reported_at = now
            self._report(self._text(now - self._started_at))

    def end(self) -> None:
        """Clears the bar."""
        if self._has_bar:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _report(self, text: str) -> None:
        if self._is_terminal:
            self._has_bar = True
            self._stream.write(f"\r\x1b[K{self._bar()}{text}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def _bar(self) -> str:
        if not self._num_rows:
            return ""
        full = _WIDTH * self._done // self._num_rows
        return f"[{'#' * full}{'.' * (_WIDTH - full)}] "

    def _text(self, seconds: float) -> str:
        rate = (self._done - self._before) / max(seconds, 1e-9)
        of = "" if self._num_rows is None else f" of {self._num_rows:,}"
        text = f"{self._done:,}{of} rows, {rate:,.0f} rows/s"
        if self._num_rows is None or rate <= 0:
            return text
        left = int((self._num_rows - self._done) / rate)
        return f"{text}, {left // 60}:{left % 60:02d} left"
