"""Texts of a command line as values; argparse turns what they raise into one line."""

import argparse
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
    """Reads a whole number of 1 or more; `what` names it in the message."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
            raise argparse.ArgumentTypeError(f"expected {what} of 1 or more, got {shown(text)}")
        return int(text)

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number from `least` to `most`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {text[:50]!r}"
            )
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
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def token(text: str) -> str:
    """Reads a secret; one that is empty, from a variable that is not set, protects nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a secret text, got an empty one")
    return text


def positives(text: str) -> tuple[int, ...]:
    """Reads numbers between commas.

    >>> positives("1,2,8")
    (1, 2, 8)
    """
    return tuple(positive("a number")(part.strip()) for part in text.split(","))


def local_path(text: str) -> Path:
    """Reads a path; a URL is none."""
    try:
        check_local("path", text)
    except AetheriaError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from None
    return Path(text)


def rate(text: str) -> float:
    """Reads a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {shown(text)}")
    return number


def duration(text: str) -> float:
    """Reads seconds: more than none, a week at most; sockets and timers have a limit, too."""
    seconds = rate(text)
    if seconds > _MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"expected at most {_MAX_SECONDS} seconds, a week, got {shown(text)}"
        )
    return seconds


def mesh(text: str) -> dict[str, int]:
    """Reads axes and sizes.

    >>> mesh("data=16,fsdp=8")
    {'data': 16, 'fsdp': 8}
    """
    items = [item.partition("=") for item in text.split(",")]
    sizes = {axis.strip(): size.strip() for axis, _, size in items}
    whole = all(re.fullmatch("[0-9]{1,9}", size) and int(size) for size in sizes.values())
    if len(sizes) < len(items) or not whole:
        raise argparse.ArgumentTypeError(
            f"expected sizes of axes such as data=16,fsdp=8,tensor=8, got {shown(text)}"
        )
    return {axis: int(size) for axis, size in sizes.items()}


def size_bytes(text: str) -> int:
    """Reads a size with its unit.

    >>> size_bytes("80GB"), size_bytes("1.5 GiB")
    (80000000000, 1610612736)
    """
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([KMGT])(i?)B", text)
    if match:
        number, unit, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** ("KMGT".index(unit) + 1))
        if 0 < size <= _MAX_BYTES:
            return size
    raise argparse.ArgumentTypeError(
        f"expected a size such as 80GB or 24GiB, of at most 1024 TiB, got {shown(text)}"
    )
