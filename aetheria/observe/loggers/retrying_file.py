"""A file of a run that survives kills, a full disk, and its own removal."""

import os
import sys
from pathlib import Path

_MAX_PENDING_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 20


class RetryingFile:
    """A file that bytes are appended to, and that retries what the disk refuses.

    What could not be written stays in memory and is tried again with the next write. One line on
    stderr reports that writing fails, and another what is lost if it still fails at the end. If the
    file is removed or renamed, it is created again with its whole content.

    Args:
        path: the file; it and its folder are created.
    """

    def __init__(self, path: Path):
        self._path, self._pending, self._is_failing = path, bytearray(), False
        self._file: int | None = None
        self.flush()

    def write(self, data: bytes) -> None:
        """Appends `data` to the content; `flush` writes it to the disk.

        Raises:
            OSError: too many bytes are pending already.
        """
        if len(self._pending) + len(data) > _MAX_PENDING_BYTES:
            raise OSError(f"{self._path}: {len(self._pending)} bytes are waiting for the disk")
        self._pending += data

    def flush(self) -> None:
        """Writes the pending bytes, or as many as the disk takes."""
        try:
            file = self._open()
            while self._pending:
                del self._pending[: os.write(file, self._pending)]
        except OSError as error:
            if not self._is_failing:
                self._warn(
                    f"could not be written: {error.strerror}; trying again with later writes"
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def content(self) -> bytes:
        """The whole content: what is on the disk, then what is pending."""
        return self._on_disk() + bytes(self._pending)

    def set_content(self, data: bytes) -> bool:
        """Replaces the content by `data`.

        If the content only has to be cut or continued, this happens in place and needs no room on
        the disk. A kill leaves either the old or the new content.

        Returns:
            Whether it succeeded. If not, the disk has no room for a second file, and the content is
            unchanged.
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
        """Writes the pending bytes, and reports them on stderr if they are lost."""
        self.flush()
        if self._pending:
            self._warn(f"lost its last {len(self._pending)} bytes, which could not be written")
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """Returns the file descriptor; creates the file if there is none at the path."""
        if self._file is None or not self._path.exists():
            file = self._create(self._path, self._on_disk())
            if self._file is not None:
                os.close(self._file)
            self._file = file
        return self._file

    def _create(self, path: Path, data: bytes) -> int:
        """Opens a file and appends `data`; if that fails, removes the file."""
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
        """The content of the open file, which may have been removed from its folder."""
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
            file = self._create(replacement, data)
            replacement.replace(self._path)
        except OSError:
            return False
        if self._file is not None:
            os.close(self._file)
        self._file = file
        self._pending.clear()
        return True

    def _warn(self, problem: str) -> None:
        print(f"{self._path} {problem}", file=sys.stderr, flush=True)
