"""Imports a function or class that an argument in a config names, after checking what it is."""

import inspect
import sys
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

from aetheria.errors import RegistryError, shown
from aetheria.plugins.import_path import import_object, is_import_path


def import_part(where: str, path: str, packages: Collection[str]) -> Callable[..., Any]:
    """Imports a function or class, not to be called for what an import path may lead to by chance:
    the file that defines it must import one of `packages`, or belong to one.

    Args:
        where: the key of the config.
        path: the import path.
        packages: the top-level packages.

    Raises:
        RegistryError: it is no import path, cannot be imported, leads into Python's standard
            library, or is something else.
    """
    if not is_import_path(path):
        raise RegistryError(
            f"{where}: expected an import path such as pkg.mod:name, got {shown(path)}; name a "
            "function of yours"
        )
    target = import_object("function", path, path)
    is_code = inspect.isclass(target) or inspect.isroutine(target)
    if not is_code or not _is_made_with(target, packages):
        raise RegistryError(
            f"{where}: expected a function or class from a file that imports "
            f"{' or '.join(packages)}, got {shown(path)}; import it there, so that no other "
            "function is called"
        )
    return target


def _is_made_with(target: Any, packages: Collection[str]) -> bool:
    home = getattr(inspect.unwrap(target), "__module__", None) or ""
    if (top := home.partition(".")[0]) in packages:
        return top != "aetheria"  # whose own functions make no source
    module = sys.modules.get(home)
    return module is not None and any(_top_of(value) in packages for value in vars(module).values())


def _top_of(value: object) -> str:
    """The package that a name in a module was imported from."""
    is_module = isinstance(value, ModuleType)
    home = value.__name__ if is_module else getattr(value, "__module__", None)
    return str(home).partition(".")[0]
