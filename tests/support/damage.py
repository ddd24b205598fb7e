"""What bad disks do to a file: shared by the tests of what comes of it."""

import random
from pathlib import Path


def flip(chance: random.Random, file: Path) -> None:
    """Turns one bit round."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(bytes(content))


def cut(chance: random.Random, file: Path) -> None:
    """Ends the file early."""
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def delete(chance: random.Random, file: Path) -> None:
    """Removes the file."""
    file.unlink()


def files_of(snapshot: Path) -> list[Path]:
    """The files of a snapshot that hold anything."""
    return sorted(file for file in snapshot.rglob("*") if file.is_file() and file.stat().st_size)


def largest_file(snapshot: Path) -> Path:
    """The one that holds most of the arrays. Of a small model, the record may be larger."""
    return max(files_of(snapshot / "state"), key=lambda file: file.stat().st_size)
