"""Context managers that say in an error which part of the data it is about."""

from collections.abc import Iterator
from contextlib import contextmanager

from aetheria.errors import AetheriaError

_MISSING_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts `where` in front of every line of an `AetheriaError`; see also `missing_file`."""
    try:
        with missing_file(where):
            yield
    except AetheriaError as error:
        raise AetheriaError(*(f"{where}, {problem}" for problem in error.problems)) from error


@contextmanager
def needs_package(where: str, package: str, purpose: str) -> Iterator[None]:
    """Turns the error of an import in the body into an `AetheriaError` that names the extra."""
    try:
        yield
    except ImportError as error:
        raise AetheriaError(
            f"{where}: expected the package {package} {purpose}, got none; pip install "
            "'aetheria[data]'"
        ) from error


@contextmanager
def missing_file(where: str) -> Iterator[None]:
    """Turns the error of a file that cannot be opened into an `AetheriaError` that names the file.

    Such a file is a mistake that the user can fix; a traceback would not help.
    """
    try:
        yield
    except _MISSING_FILE as error:
        if error.filename is None:
            raise
        raise AetheriaError(
            f"{where}: expected a file that can be read, got {str(error.filename)!r} "
            f"({error.strerror}); check the path"
        ) from error
