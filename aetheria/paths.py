"""Paths are those of mounted file systems: nothing here reads or writes object stores."""

import re
from pathlib import Path

from aetheria.errors import AetheriaError

# `pathlib` makes `gs:/bucket` of `gs://bucket`; one letter alone is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(where: str, path: str | Path | None) -> None:
    """Refuses a URL where a path is expected; None passes.

    >>> check_local("--workdir", "runs/mlp/1")
    >>> check_local("--workdir", "gs://bucket/run")
    Traceback (most recent call last):
    ...
    aetheria.errors.AetheriaError: --workdir: expected a path of a mounted file system, got
    gs://bucket/run; ...

    Raises:
        AetheriaError: the path begins with a scheme, such as `s3://`, `hdfs://` or `file://`.
    """
    if path is not None and _SCHEME.match(str(path)):
        url = re.sub(":/+", "://", str(path), count=1)
        raise AetheriaError(
            f"{where}: expected a path of a mounted file system, got {url}; mount the store, or "
            "copy to and from it"
        )
