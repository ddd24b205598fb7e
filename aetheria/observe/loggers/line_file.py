"""A file of a run whose lines belong to steps, without a gap or a repeat when a run resumes."""

from collections.abc import Callable, Iterator
from pathlib import Path

from aetheria.events import Event, RolledBack, RunEnded, RunStarted
from aetheria.observe.loggers.retrying_file import RetryingFile


class LineFile:
    """A text file in which every line belongs to a step.

    When a run resumes or rolls back, the file drops the lines of later steps, and a line that a
    kill left half written: the run will write them again. Every append is flushed at once.

    Args:
        path: the file.
        step_of: returns the step of a line; None: it is not a whole line of this format.
        header: the first line of the file; empty: there is none.
    """

    def __init__(self, path: Path, step_of: Callable[[str], int | None], header: str = ""):
        self._path, self._step_of, self._header = path, step_of, header
        self._file: RetryingFile | None = None

    def follow(self, event: Event) -> None:
        """Opens the file when the run starts, cuts it when the run goes back, closes it at the end.

        A listener calls it with every event.
        """
        if isinstance(event, (RunStarted, RolledBack)):
            self._file = self._file or RetryingFile(self._path)
            self._drop_after(self._file, event.last_logged_step)
        elif isinstance(event, RunEnded) and self._file is not None:
            self._file.close()

    def lines(self) -> Iterator[str]:
        """The whole lines that are on the disk, but for the header; none: there is no such file."""
        content = self._path.read_bytes() if self._path.exists() else b""
        for line in content[: content.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines():
            if self._step_of(line) is not None:
                yield line

    def append(self, *lines: str) -> None:
        """Writes lines to the end of the file."""
        assert self._file is not None, "RunStarted comes first"
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()

    def _drop_after(self, file: RetryingFile, last_step: int) -> None:
        """Drops the lines of later steps, and lines of no step.

        Usually these are the end of the file, which is then cut in place.
        """
        content, header = file.content(), f"{self._header}\n".encode() if self._header else b""
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        kept, end = [header], len(header)
        position = 0
        for line in lines:
            position += len(line)
            if self._is_kept(line, last_step):
                kept.append(line)
                end = position
        if not file.set_content(b"".join(kept)):
            # No room to write the file again: a damaged line in the middle stays for now.
            file.set_content(content[:end])
        file.flush()

    def _is_kept(self, line: bytes, last_step: int) -> bool:
        # After a crash of the machine, a line may hold bytes that are not text.
        step = self._step_of(line.decode("utf-8", errors="replace").rstrip("\r\n"))
        return step is not None and step <= last_step
