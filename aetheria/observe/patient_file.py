"""Files of a run that outlast kills, and a disk that is full for a while."""

import os
import sys
from pathlib import Path

_MOST_PENDING_BYTES = 64 << 20


def replace_text(path: Path, text: str) -> None:
    """Writes a file anew; a kill leaves the old one or the new one, whole."""
    replacement = path.with_suffix(path.suffix + ".tmp")
    replacement.write_text(text, encoding="utf-8")
    replacement.replace(path)


class PatientFile:
    """Appends bytes. What the disk does not take is kept, and tried again with the next.

    An outage is one line on stderr, and so is what is lost where it outlasts the run.
    """

    def __init__(self, path: Path):
        self._path, self._pending, self._in_outage = path, bytearray(), False
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, data: bytes) -> None:
        """Takes `data`; `flush` brings it to the disk.

        Raises:
            OSError: too much is waiting already.
        """
        if len(self._pending) + len(data) > _MOST_PENDING_BYTES:
            raise OSError(f"{self._path}: {len(self._pending)} bytes are waiting for the disk")
        self._pending += data

    def flush(self) -> None:
        """Writes what is waiting, or as much as the disk takes."""
        try:
            while self._pending:
                del self._pending[: os.write(self._file, self._pending)]
        except OSError as error:
            if not self._in_outage:
                self._tell(
                    f"could not be written: {error.strerror}; trying again with what follows"
                )
            self._in_outage = True
        else:
            self._in_outage = False

    def close(self) -> None:
        """Writes what is waiting; says so if it is lost."""
        self.flush()
        if self._pending:
            self._tell(f"is without its last {len(self._pending)} bytes, which found no place")
        os.close(self._file)

    def _tell(self, what: str) -> None:
        print(f"{self._path} {what}", file=sys.stderr, flush=True)
