"""A file or folder that appears whole or not at all, and replaces nothing."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aetheria.errors import SnapshotError


@contextlib.contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Gives the body a name beside `path` to write to, a file or a folder, and renames it after.

    Raises:
        SnapshotError: the path exists already, or cannot be written.
    """
    taken = f"--to: expected a name that is free, got {path}; name another"
    if path.exists() or path.is_symlink():
        raise SnapshotError(taken)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            partial = Path(folder) / path.name
            yield partial
            if path.exists():  # since then
                raise SnapshotError(taken)
            partial.rename(path)
    except OSError as error:
        raise SnapshotError(
            f"--to: expected a place that can be written to, got {path} ({error.strerror}); name "
            "another"
        ) from error
