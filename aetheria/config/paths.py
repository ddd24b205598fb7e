"""Refuses paths that no mounted file system has; object stores are not supported."""

import os
import re
from pathlib import Path

from aetheria.errors import AetheriaError, shown

_NAME_BYTES, _PATH_BYTES = 255, 4095  # the limits of Linux
# `pathlib` turns `gs://bucket` into `gs:/bucket`; a single letter is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(where: str, path: str | Path | None) -> None:
    """Checks that a path can belong to a mounted file system; None passes.

    >>> check_local("--workdir", "runs/mlp/1")
    >>> check_local("--workdir", "gs://bucket/run")
    Traceback (most recent call last):
    ...
    aetheria.errors.AetheriaError: --workdir: expected a path of a mounted file system, got
    gs://bucket/run; ...

    Raises:
        AetheriaError: the path begins with a scheme, such as `s3://`, `hdfs://` or `file://`; it
            is empty; or one of its names is too long.
    """
    if path is None:
        return
    encoded = os.fsencode(path)
    if (
        not encoded
        or b"\0" in encoded
        or len(encoded) > _PATH_BYTES
        or _longest(encoded) > _NAME_BYTES
    ):
        raise AetheriaError(
            f"{where}: expected a path whose names have 1 to {_NAME_BYTES} bytes, got "
            f"{shown(str(path))}; name another"
        )
    if _SCHEME.match(str(path)):
        url = re.sub(":/+", "://", str(path), count=1)
        raise AetheriaError(
            f"{where}: expected a path of a mounted file system, got {url}; mount the store, or "
            "copy to and from it"
        )


def _longest(path: bytes) -> int:
    return max(len(name) for name in path.split(b"/"))
