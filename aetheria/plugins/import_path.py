"""Imports the object that an import path such as `pkg.mod:Name` leads to."""

import importlib
import importlib.util
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

from aetheria.errors import RegistryError, shown

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def import_object(noun: str, name: str, path: str) -> Any:
    """Imports a module and returns one of its attributes, which may be anything.

    Args:
        noun: what messages call the object, such as `model`.
        name: the name that the user gave.
        path: the import path that it stands for.

    Raises:
        RegistryError: the path leads into Python's standard library, or cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    if _is_standard(module_name):
        # Refused before it is imported: importing `antigravity`, for one, opens a browser.
        raise RegistryError(
            f"{noun} {shown(name)}: expected a {noun}, got an import path "
            "into Python's standard library, which has none; name another"
        )
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except RegistryError:
        raise
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"{noun} {name!r}: expected {path} to import, as pkg.mod:Name does, got "
            f"{type(error).__name__}: {error}; check that it can be imported from here"
        ) from error


def is_import_path(value: object) -> bool:
    """Whether a value reads as an import path.

    >>> is_import_path("pkg.mod:make"), is_import_path("data/a.csv")
    (True, False)
    """
    return isinstance(value, str) and _IMPORT_PATH.fullmatch(value) is not None


def find_imported(path: str) -> Any:
    """What an import path leads to, if its module is imported already; None: it is not."""
    module, _, attribute = path.partition(":")
    return getattr(sys.modules.get(module), attribute, None)


def _is_standard(module: str) -> bool:
    """Whether a module is Python's own, and not a user's file of the same name."""
    top = module.partition(".")[0]
    if top not in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(top)  # imports nothing, since the name has no dots
    except ValueError:
        return True
    if spec is None or spec.origin is None:
        return False
    own = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    is_file = spec.origin not in ("built-in", "frozen")
    return not is_file or any(Path(spec.origin).is_relative_to(folder) for folder in own)
