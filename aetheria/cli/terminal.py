"""Standard output and standard error whose failures do not end a run.

Everything that prints, including a user's model and libraries, writes to `sys.stdout` and
`sys.stderr`. So a command makes these two streams safe, instead of every single `print`.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Makes `sys.stdout` and `sys.stderr` safe inside the block. A nested block does nothing.

    If the disk is full, the text is dropped and the next one is tried again. A stream that is
    closed, or whose reader has exited, is ignored from then on. A character that the stream's
    encoding lacks is written as an escape. Each of these is reported once, on stderr.
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
        output.report("closed; its text is lost, and the command continues")
    try:
        yield
    finally:
        for stream in (output, errors):
            stream.end()
        # Other code may have replaced the stream inside the block; its stream stays.
        sys.stdout = before[0] if sys.stdout is output else sys.stdout
        sys.stderr = before[1] if sys.stderr is errors else sys.stderr
        for descriptor in reserved:
            os.close(descriptor)


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[TextIO]:
    """Sends to stderr whatever Python code prints inside the block, so that stdout is left to a
    program's lines.

    Yields:
        The stream to which these are written.
    """
    output = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield output


class SafeStream(io.TextIOBase):
    """Proxy: a text stream whose `write` and `flush` do not raise.

    Args:
        stream: the wrapped stream; None: there is none.
        name: its name in messages.
        errors: the stream that gets messages about this one; None: no messages.
    """

    def __init__(self, stream: TextIO | None, name: str, errors: "SafeStream | None"):
        self._stream, self._name, self._errors = stream, name, errors
        self._reported: set[str] = set()
        self._failed = False

    def write(self, text: str) -> int:
        """Writes what the stream accepts; returns the length of the whole text."""
        try:
            self._write(text)
        except (OSError, ValueError) as error:  # ValueError: closed by other code in this process
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

    def report(self, what: str) -> None:
        """Reports once what is wrong with this stream."""
        if self._errors is not None and what not in self._reported:
            self._reported.add(what)
            self._errors.write(f"{self._name}: {what}\n")
            self._errors.flush()

    def end(self) -> None:
        """Flushes for the last time, and drops what the stream still does not accept: otherwise
        Python would try again when it exits, and exit with 120.
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
            self.report(f"its encoding ({encoding}) lacks {lacking}; such characters are escaped")

    def _fail(self, error: OSError | ValueError) -> None:
        self._failed = True
        reason = getattr(error, "strerror", None) or str(error)
        self.report(f"{reason}; what it does not accept is lost, and the command continues")
        if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
            self._drop()

    def _drop(self) -> None:
        """Discards all further output, and what the stream has buffered."""
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
        """Leaves the wrapped stream open, which other code owns."""


def _reserve_descriptors() -> list[int]:
    """Opens `/dev/null` for each closed standard stream: otherwise the next opened file would get
    its number, and the output that libraries print to this number.
    """
    reserved = []
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                reserved.append(os.open(os.devnull, os.O_RDWR))
    return reserved
