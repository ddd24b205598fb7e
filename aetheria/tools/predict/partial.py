"""A file that is written over several starts: `FILE.partial`, and a journal of how far it is.

The journal says after which byte the file is certain, so what a kill left beyond is cut off, and
the finished file is the same as one that was written in one go.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError
from aetheria.snapshots.run_folder import write_json

SECONDS_BETWEEN = 1.0  # notes in the journal


class CannotWriteError(AetheriaError):
    """An output that cannot be written, or a full disk."""


class _Whole(NamedTuple):
    """What a file holds of whole blocks."""

    num_rows: int
    size_bytes: int


class PartialFile:
    """A file under way. A context manager, which notes at its end how far it came; after a mistake
    in the input it keeps nothing.

    Attributes:
        path: where it is until it is complete.
        scratch: where another file may be made of it.
        about: what the caller noted of them, JSON values.

    Args:
        target: the file to make.
        identity: what the rows are made of. A partial file is continued if it is of the same; None:
            it cannot be, and nothing is kept of it.
        restart: begin anew where a partial file is of something else.

    Raises:
        AetheriaError: the folder cannot be written to, another process writes the file, or a
            partial file is of something else.
    """

    def __init__(self, target: Path, identity: JsonObject | None, *, restart: bool):
        self.target, self._identity = target, identity
        self.path = target.with_name(f"{target.name}.partial")
        self.journal = target.with_name(f"{target.name}.partial.json")
        self.scratch = target.with_name(f"{target.name}.partial.made")
        self._whole = _Whole(0, 0)
        self.about: dict[str, Any] = {}
        with _writable(target):
            self._file: IO[bytes] = os.fdopen(
                os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b"
            )
        try:
            self._lock()
            self._continue(restart)
        except BaseException:
            self._file.close()
            raise
        self._noted_at = time.monotonic()

    @property
    def num_rows(self) -> int:
        """The rows that it holds."""
        return self._whole.num_rows

    def append(self, data: bytes, num_rows: int) -> None:
        """Adds the bytes of some rows; raises AetheriaError if the disk is full."""
        with _writable(self.target):
            self._file.write(data)
            # One assignment, between whose halves no interrupt can come.
            self._whole = _Whole(self.num_rows + num_rows, self._whole.size_bytes + len(data))
            if time.monotonic() - self._noted_at > SECONDS_BETWEEN:
                self._note()

    def finish(self, complete: Callable[[IO[bytes]], Path | None]) -> None:
        """Completes the file and moves it into place.

        Args:
            complete: is given the file; returns another one that it made of it, or None.
        """
        with _writable(self.target):
            self._note()
            made = complete(self._file)
            self._file.flush()
            os.fsync(self._file.fileno())
            if made is not None:
                os.replace(made, self.target)
                self.path.unlink()
            else:
                os.replace(self.path, self.target)
            self.journal.unlink(missing_ok=True)
            self._file.close()

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file.closed:
            return
        # Of a mistake in the input: it will be another one when it is corrected.
        is_of_input = isinstance(error, AetheriaError) and not isinstance(error, CannotWriteError)
        if self._identity is None or not self.num_rows or is_of_input:
            self.path.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
        else:
            with contextlib.suppress(OSError):  # the error that ends this comes first
                self._note()
        with contextlib.suppress(OSError):
            self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AetheriaError(
                f"{self.path}: expected a file that no other process writes, got one that is being "
                "written; wait for it, or name another output"
            ) from error

    def _continue(self, restart: bool) -> None:
        """Takes over what the journal says is there, and cuts off the rest."""
        size = os.fstat(self._file.fileno()).st_size
        found = self._read_journal()
        if found is None and not size:
            found = {}
        differs = self._difference(found)
        if differs is not None and not restart:
            raise AetheriaError(
                f"{self.path}: expected what an interrupted prediction of the same snapshot, input "
                f"and options left, got {differs}; give --overwrite to begin anew, or name another "
                "output"
            )
        if found and differs is None and found["size_bytes"] <= size:
            self._whole = _Whole(found["num_rows"], found["size_bytes"])
            self.about = found["about"]
        with _writable(self.target):
            self._file.truncate(self._whole.size_bytes)
            self._file.seek(self._whole.size_bytes)
            self._note()

    def _difference(self, found: dict[str, Any] | None) -> str | None:
        """What of a journal is not as it is now, in words; None: nothing."""
        if found == {}:
            return None
        if self._identity is None:
            return "one, and this input cannot be read twice"
        if found is None:
            return "a file without a journal"
        for name, value in self._identity.items():
            if found["identity"].get(name) != value:
                return f"one of another {name}"
        return None

    def _read_journal(self) -> dict[str, Any] | None:
        """The journal; None: there is none, or it is no journal."""
        try:
            found = json.loads(self.journal.read_text(encoding="utf-8"))
            whole = [found["num_rows"], found["size_bytes"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_sound = all(type(each) is int and each >= 0 for each in whole)
        kinds = [found.get("identity"), found.get("about")]
        return found if is_sound and all(isinstance(each, dict) for each in kinds) else None

    def _note(self) -> None:
        """Makes what was written certain, and then notes it."""
        if self._identity is None:
            return
        self._file.flush()
        os.fdatasync(self._file.fileno())
        noted = {
            "identity": self._identity,
            **self._whole._asdict(),
            "about": self.about,
        }
        write_json(self.journal, noted)
        self._noted_at = time.monotonic()


@contextlib.contextmanager
def _writable(target: Path) -> Iterator[None]:
    """Turns the error of a file that cannot be written into one line."""
    try:
        yield
    except OSError as error:
        raise CannotWriteError(
            f"output: expected a file that can be written, got {target} ({error.strerror}); free "
            "space, or name another"
        ) from error
