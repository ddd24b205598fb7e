"""Standard output and standard error that end no run: whatever is wrong with them, work goes on.

Everything that prints, a user's model and a library too, writes to `sys.stdout` and `sys.stderr`;
so these two are made safe for the time of a command, and no single `print` need be.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Makes `sys.stdout` and `sys.stderr` safe until the block ends. Nested, it does nothing.

    What a full disk does not take is dropped, and the next text is tried again. A stream that is
    closed, or whose reader has gone, stays silent. A character that the stream's encoding lacks is
    written as an escape. Each of these is said once, on stderr.
    """
    if isinstance(sys.stdout, SafeStream):
        yield
        return
    before = sys.stdout, sys.stderr
    reserved = _reserve_descriptors()
    errors = SafeStream(before[1], "stderr", None)
    output = SafeStream(before[0], "stdout", errors)
    sys.stdout, sys.stderr = output, errors  # type: ignore[assignment]
    if before[0] is None:
        output.tell("closed; its text is lost, and the work goes on")
    try:
        yield
    finally:
        for stream in (output, errors):
            stream.end()
        # Somebody may have put another stream there meanwhile, and keeps it.
        sys.stdout = before[0] if sys.stdout is output else sys.stdout
        sys.stderr = before[1] if sys.stderr is errors else sys.stderr
        for descriptor in reserved:
            os.close(descriptor)


class SafeStream(io.TextIOBase):
    """A text stream whose `write` and `flush` do not raise; all else is the wrapped stream's.

    Args:
        stream: the stream; None: there is none.
        name: as messages call it.
        errors: where what is wrong with it is said; None: nowhere.
    """

    def __init__(self, stream: Any, name: str, errors: "SafeStream | None"):
        self._stream, self._name, self._errors = stream, name, errors
        self._told: set[str] = set()
        self._failed = False

    def write(self, text: str) -> int:
        """Writes what the stream takes; returns the length of all."""
        try:
            self._write(text)
        except (OSError, ValueError) as error:  # ValueError: closed by somebody in this process
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Flushes."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._fail(error)

    def tell(self, what: str) -> None:  # type: ignore[override]
        """Says once what is wrong with this stream."""
        if self._errors is not None and what not in self._told:
            self._told.add(what)
            self._errors.write(f"{self._name}: {what}\n")
            self._errors.flush()

    def end(self) -> None:
        """Flushes for the last time. What the stream still does not take is dropped: Python would
        try again as it exits, and exit with 120.
        """
        self._failed = False
        self.flush()
        if self._failed:
            self._drop()

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            encoding = error.encoding
            escaped = text.encode(encoding, "backslashreplace").decode(encoding)
            self._stream.write(escaped)
            lacking = ascii(error.object[error.start])
            self.tell(f"its encoding ({encoding}) lacks {lacking}; such characters are escaped")

    def _fail(self, error: OSError | ValueError) -> None:
        self._failed = True
        reason = getattr(error, "strerror", None) or str(error)
        self.tell(f"{reason}; what it does not take is lost, and the work goes on")
        if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
            self._drop()

    def _drop(self) -> None:
        """Writes to nowhere from here on, what the stream holds back as well."""
        stream: Any = self._stream
        self._stream = None
        with contextlib.suppress(AttributeError, OSError, ValueError):
            descriptor = stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
            stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self._stream, "errors", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Leaves the wrapped stream open: it is somebody else's."""


def _reserve_descriptors() -> list[int]:
    """Opens `/dev/null` where a standard stream is closed: otherwise the next file opened would
    get its number, and what libraries print on that number.
    """
    reserved = []
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                reserved.append(os.open(os.devnull, os.O_RDWR))
    return reserved
