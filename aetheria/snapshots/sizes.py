"""Vocabulary: numbers of bytes."""

from pathlib import Path


def size_text(size_bytes: float) -> str:
    """Bytes in the largest decimal unit.

    >>> size_text(12), size_text(80e9)
    ('12 B', '80.00 GB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size_bytes >= size:
            return f"{size_bytes / size:.2f} {unit}"
    return f"{size_bytes:.0f} B"


def folder_bytes(folder: Path) -> int:
    """The total size of the files in a folder and its subfolders; 0 if it does not exist."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
