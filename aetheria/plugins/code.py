"""Digests of the code that a run is made of: of its model, its dataset and its listeners.

Code that ships with Aetheria is identified by the version, so of that only the one file that
defines the part is digested.
"""

import ast
import functools
import gc
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aetheria

_MAX_FILES = 200  # of one part; the digest of a part that imports more files is incomplete


def digest_code(target: object, project: Path | None) -> dict[str, Any] | None:
    """Digests the file that defines an object, and the user's own files that it imports.

    Args:
        target: a class or a function; any other object stands for its class.
        project: the project folder. A user's own files are those of the project, and those of the
            package that `target` lies in.

    Returns:
        `file`, its `sha256`, and `imports`: file -> sha256; None if no file defines the object.
    """
    module = sys.modules.get(_definition(target).__module__)
    main = None if module is None else _file(module)
    if module is None or main is None:
        return None
    imported = {}
    for other in _closure(module, project):
        file = _file(other)
        if file is not None and file != main:
            imported[_shown(other, file, project)] = _sha256(file)
    return {
        "file": _shown(module, main, project),
        "sha256": _sha256(main),
        "imports": dict(sorted(imported.items())),
    }


def _definition(target: object) -> object:
    """The class or function behind an object."""
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target) if callable(target) else target
    known = inspect.isclass(target) or inspect.isroutine(target)
    return target if known and isinstance(target.__module__, str) else type(target)


def _closure(module: ModuleType, project: Path | None) -> list[ModuleType]:
    """The user's own modules that a module imports, directly or through others, if loaded."""
    package = module.__name__.partition(".")[0]
    found, waiting = {module.__name__: module}, [module]
    while waiting and len(found) < _MAX_FILES:
        for name in _imports(waiting.pop()):
            other = sys.modules.get(name)
            if other is None or name in found or not _is_own(other, package, project):
                continue
            found[name] = other
            waiting.append(other)
    return list(found.values())


def _imports(module: ModuleType) -> Iterator[str]:
    """The names of the modules that a module's file may import."""
    file = _file(module)
    try:
        tree = _parse(file.read_bytes()) if file is not None else ast.Module([], [])
    except (
        OSError,
        SyntaxError,
        ValueError,
    ):  # compiled, or edited since the import
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield from (".".join(parts[: n + 1]) for n in range(len(parts)))
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            try:
                base = importlib.util.resolve_name(base, module.__package__ or "")
            except ImportError:  # a relative import beyond the top-level package
                continue
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _parse(source: bytes) -> ast.Module:
    """`ast.parse`, in which nothing else is parsed.

    A collection of garbage in the middle may log the exception of a task that nobody asked for, as
    Orbax leaves one when it reads a damaged checkpoint. To format it, Python 3.11 parses its lines,
    and the outer `ast.parse` ends with a SystemError ("recursion depth mismatch").
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


def _is_own(module: ModuleType, package: str, project: Path | None) -> bool:
    file = _file(module)
    if file is None or any(file.is_relative_to(folder) for folder in _foreign_folders()):
        return False
    in_package = module.__name__.partition(".")[0] == package != "aetheria"
    return in_package or (project is not None and file.is_relative_to(project.resolve()))


@functools.cache
def _foreign_folders() -> tuple[Path, ...]:
    """The folders of Python, of installed packages and of Aetheria itself."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_path(name)).resolve() for name in names}
    return (*sorted(folders), Path(aetheria.__file__).resolve().parent)


def _file(module: ModuleType) -> Path | None:
    name = getattr(module, "__file__", None)
    file = None if name is None else Path(name)
    return file.resolve() if file is not None and file.is_file() else None


def _shown(module: ModuleType, file: Path, project: Path | None) -> str:
    """A file's path in a form that does not depend on where the project lies."""
    if project is not None and file.is_relative_to(project.resolve()):
        return file.relative_to(project.resolve()).as_posix()
    return f"{module.__name__.replace('.', '/')}{file.suffix}"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
