"""Readers: convert a text of the command line to a value, within limits.

A reader raises ValueError("expected ..., got ..."), which the parser completes to one line.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

from aetheria.config.paths import check_local
from aetheria.errors import AetheriaError, shown
from aetheria.hardware.processes.address import split_address

_MAX_SECONDS = 7 * 24 * 3600
_MAX_BYTES = 2**50  # a pebibyte: no device has more


def positive(what: str) -> Callable[[str], int]:
    """Makes a reader of whole numbers of 1 or more; `what` names the number in the message."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
            raise ValueError(f"expected {what} of 1 or more, got {shown(text)}")
        return int(text)

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    """Makes a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"expected a whole number from {least} to {most}, got {shown(text)}")
        return int(text)

    return read


def address(text: str) -> str:
    """Reads `host:port`.

    >>> address("host0:9000")
    'host0:9000'
    """
    try:
        split_address(text)
    except ValueError as error:
        raise ValueError(str(error)) from None
    return text


def token(text: str) -> str:
    """Reads a secret; an empty one, such as an unset variable, would protect nothing."""
    if not text.strip():
        raise ValueError("expected a secret text, got an empty one")
    return text


def positives(text: str) -> tuple[int, ...]:
    """Reads whole numbers of 1 or more, separated by commas.

    >>> positives("1,2,8")
    (1, 2, 8)
    """
    return tuple(positive("a number")(part.strip()) for part in text.split(","))


def local_path(text: str) -> Path:
    """Reads a path on a mounted file system; refuses a URL."""
    try:
        check_local("path", text)
    except AetheriaError as error:
        raise ValueError(str(error).removeprefix("path: ")) from None
    return Path(text)


def rate(text: str) -> float:
    """Reads a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"expected a number above 0, got {shown(text)}")
    return number


def duration(text: str) -> float:
    """Reads seconds: above 0 and at most a week, since sockets and timers have a limit."""
    seconds = rate(text)
    if seconds > _MAX_SECONDS:
        raise ValueError(f"expected at most {_MAX_SECONDS} seconds, a week, got {shown(text)}")
    return seconds


def mesh(text: str) -> dict[str, int]:
    """Reads the sizes of mesh axes.

    >>> mesh("data=16,fsdp=8")
    {'data': 16, 'fsdp': 8}
    """
    items = [item.partition("=") for item in text.split(",")]
    sizes = {axis.strip(): size.strip() for axis, _, size in items}
    are_sizes = all(re.fullmatch("[0-9]{1,9}", size) and int(size) for size in sizes.values())
    if len(sizes) < len(items) or not are_sizes:
        raise ValueError(
            f"expected sizes of axes such as data=16,fsdp=8,tensor=8, got {shown(text)}"
        )
    return {axis: int(size) for axis, size in sizes.items()}


def size_bytes(text: str) -> int:
    """Reads a number of bytes with its unit.

    >>> size_bytes("80GB"), size_bytes("1.5 GiB")
    (80000000000, 1610612736)
    """
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([KMGT])(i?)B", text)
    if match:
        number, unit, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** ("KMGT".index(unit) + 1))
        if 0 < size <= _MAX_BYTES:
            return size
    raise ValueError(
        f"expected a size such as 80GB or 24GiB, of at most 1024 TiB, got {shown(text)}"
    )


def folder_name(text: str) -> str:
    """Reads the name of a folder, without any above it."""
    local_path(text)
    if "/" in text or text in (".", ".."):
        raise ValueError(f"expected a name without slashes, got {shown(text)}")
    return text
