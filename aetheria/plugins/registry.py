"""Names to objects. A file that registers something is found by where it lies; nothing lists it.

Searched, in this order of precedence: an import path (`pkg.mod:Name`); the project folder; what
ships with Aetheria; entry points of installed packages. A name found in two files is an error.
"""

import difflib
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aetheria.errors import RegistryError, shown
from aetheria.plugins import discovery

T = TypeVar("T")


class Registry:
    """Objects of one kind by name.

    Args:
        kind: `model`, `data`, `logger` or `callback`; the decorator is `register_<kind>`.
        folder: the folder of a project in which files may register one.
        package: the package of Aetheria whose files may register one.
    """

    def __init__(self, kind: str, folder: str, package: str):
        self.kind, self._folder, self._package = kind, folder, package
        self._found: dict[str, dict[Path, Any]] = {}
        self._failed: dict[Path, BaseException] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorates a class or function so that a config can name it."""

        def add(target: T) -> T:
            self._found.setdefault(name, {})[_file_of(target)] = target
            return target

        return add

    def get(self, name: str, project: Path | None = None) -> Any:
        """Finds what `name` stands for.

        Raises:
            RegistryError: nothing is registered so, or two files register it.
        """
        if ":" in name:
            if project is not None:
                discovery.make_importable(project)
            return self._import_path(name, name)
        self._discover(project)
        if found := self._visible(name, project):
            return self._only(name, found)
        entries = importlib.metadata.entry_points(group=f"aetheria.{self._folder}", name=name)
        values = sorted({entry.value for entry in entries})
        if len(values) > 1:
            raise RegistryError(
                f"{self.kind} {name!r}: expected one package that provides it, got "
                f"{' and '.join(values)}; uninstall one, or write the import path"
            )
        if values:
            return self._import_path(name, values[0])
        raise RegistryError(self._not_found(name, project))

    def names(self, project: Path | None = None) -> list[str]:
        """Every name that can be asked for, sorted."""
        self._discover(project)
        entries = importlib.metadata.entry_points(group=f"aetheria.{self._folder}")
        known = [name for name in self._found if self._visible(name, project)]
        return sorted({*known, *(entry.name for entry in entries)})

    def _visible(self, name: str, project: Path | None) -> dict[Path, Any]:
        """What is registered under a name, but for what belongs to another project."""
        found = self._found.get(name, {}).items()
        return {f: t for f, t in found if discovery.is_visible(t.__module__, project)}

    def _only(self, name: str, found: dict[Path, Any]) -> Any:
        (first, target), *others = found.items()
        for file, _ in others:
            if not discovery.is_same_file(first, file):
                raise RegistryError(
                    f"{self.kind} {name!r}: expected one file that registers it, got "
                    f"{first} and {file}; rename one"
                )
        return target

    def _discover(self, project: Path | None) -> None:
        marker, self._failed = f"register_{self.kind}", {}
        for module in discovery.candidate_modules(self._package, self._folder, project, marker):
            try:
                module.load()
            except (Exception, SystemExit) as error:
                # Another file's fault must not hide this one's name.
                self._failed[module.file] = error

    def _import_path(self, name: str, path: str) -> Any:
        module_name, _, attribute = path.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except RegistryError:
            raise
        except (Exception, SystemExit) as error:
            raise RegistryError(
                f"{self.kind} {name!r}: expected {path} to import, as pkg.mod:Name does, got "
                f"{type(error).__name__}: {error}; check that it can be imported from here"
            ) from error

    def _not_found(self, name: str, project: Path | None) -> str:
        names = self.names(project)
        near = difflib.get_close_matches(name[:60], names, n=1, cutoff=0.5)
        lowered = {known.lower(): known for known in names}
        hint = lowered.get(name.lower()) or (near[0] if near else None)
        advice = f"use {hint!r}" if hint else "use one of these, or pkg.mod:Name"
        broken = "".join(
            f"; {file} was passed over ({type(error).__name__}: {error})"
            for file, error in self._failed.items()
        )
        return (
            f"{self.kind}: expected one of {', '.join(names)}, got {shown(name)}; {advice}{broken}"
        ).replace("\n", " ")


def _file_of(target: Any) -> Path:
    try:
        return Path(inspect.getfile(target)).resolve()
    except (TypeError, OSError):  # typed into an interpreter
        return Path(f"<{getattr(target, '__module__', 'unknown')}>")


MODELS = Registry("model", "models", "aetheria.models")
DATA = Registry("data", "data", "aetheria.data")
LOGGERS = Registry("logger", "loggers", "aetheria.observe")
CALLBACKS = Registry("callback", "callbacks", "aetheria.observe")

register_model = MODELS.register
register_data = DATA.register
register_logger = LOGGERS.register
register_callback = CALLBACKS.register
