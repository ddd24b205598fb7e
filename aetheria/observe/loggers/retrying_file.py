"""Files of a run that outlast kills, a disk that is full for a while, and their own removal."""

import os
import sys
from pathlib import Path

_MOST_PENDING_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 20


class RetryingFile:
    """Appends bytes. What the disk does not take is kept, and tried again with the next.

    An outage is one line on stderr, and so is what is lost where it outlasts the run. A file that
    is removed or renamed is written anew, with all that was in it. Its content is what is on the
    disk and what waits for the disk.
    """

    def __init__(self, path: Path):
        self._path, self._pending, self._in_outage = path, bytearray(), False
        self._file: int | None = None
        self.flush()

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
            file = self._open()
            while self._pending:
                del self._pending[: os.write(file, self._pending)]
        except OSError as error:
            if not self._in_outage:
                self._tell(
                    f"could not be written: {error.strerror}; trying again with what follows"
                )
            self._in_outage = True
        else:
            self._in_outage = False

    def content(self) -> bytes:
        """All of it, from the first byte."""
        return self._on_disk() + bytes(self._pending)

    def become(self, data: bytes) -> bool:
        """Makes `data` the content. Where the content only has to be cut or continued, this happens
        in place and needs no room on the disk; a kill leaves the old content or the new.

        Returns:
            False: the disk has no room for another file, and the content is as it was.
        """
        content = self.content()
        if content.startswith(data):
            self._cut(len(data))
        elif data.startswith(content):
            self.write(data[len(content) :])
        else:
            return self._replace(data)
        return True

    def close(self) -> None:
        """Writes what is waiting; says so if it is lost."""
        self.flush()
        if self._pending:
            self._tell(f"is without its last {len(self._pending)} bytes, which found no place")
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """The file, opened where it was not yet, or is no longer there."""
        if self._file is None or not self._path.exists():
            file = self._make(self._path, self._on_disk())
            if self._file is not None:
                os.close(self._file)
            self._file = file
        return self._file

    def _make(self, path: Path, data: bytes) -> int:
        """Opens a file and appends `data`; where that fails, removes what it made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
        except OSError:
            os.close(file)
            path.unlink()
            raise
        return file

    def _on_disk(self) -> bytes:
        """What the open file holds, if it is still in its folder or not."""
        blocks: list[bytes] = []
        while self._file is not None:
            block = os.pread(self._file, _BLOCK_BYTES, sum(map(len, blocks)))
            blocks.append(block)
            if not block:
                break
        return b"".join(blocks)

    def _cut(self, size: int) -> None:
        on_disk = 0 if self._file is None else os.fstat(self._file).st_size
        del self._pending[max(0, size - on_disk) :]
        if self._file is not None and size < on_disk:
            os.ftruncate(self._file, size)

    def _replace(self, data: bytes) -> bool:
        replacement = self._path.with_suffix(self._path.suffix + ".tmp")
        try:
            replacement.unlink(missing_ok=True)
            file = self._make(replacement, data)
            replacement.replace(self._path)
        except OSError:
            return False
        if self._file is not None:
            os.close(self._file)
        self._file = file
        self._pending.clear()
        return True

    def _tell(self, what: str) -> None:
        print(f"{self._path} {what}", file=sys.stderr, flush=True)
