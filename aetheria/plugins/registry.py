"""Registries: they map names to objects.

A registry searches, in this order of precedence: an import path (`pkg.mod:Name`); the project
folder; what ships with Aetheria; entry points of installed packages. A name that two files register
is an error.

A name in a config or an argument comes from the user. A name in a snapshot, a weights file or a
dump comes from whoever wrote that file, so `find_recorded` imports nothing because of such a name.
"""

import difflib
import importlib.metadata
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aetheria.errors import RegistryError, shown
from aetheria.plugins import discovery
from aetheria.plugins.import_path import import_object

# The name in a config of what a program gave as an object.
GIVEN = "<given from Python>"

T = TypeVar("T")
_MAX_FILES = 3  # that register nothing, named in an error


class Registry:
    """Objects of one kind by name.

    Args:
        kind: `model`, `data`, `logger` or `callback`; the decorator is `register_<kind>`.
        folder: the folder of a project that is searched.
        package: the package of Aetheria that is searched.

    Attributes:
        noun: what messages call an object of this kind.
    """

    def __init__(self, kind: str, folder: str, package: str):
        self._kind, self._folder, self._package = kind, folder, package
        self.noun = {"data": "dataset"}.get(kind, kind)
        self._found: dict[str, dict[Path, object]] = {}
        self._failed: dict[Path, BaseException] = {}
        self._provided: list[object] = []
        self._loading: Path | None = None
        self._files: set[Path] = set()

    def register(self, name: str) -> Callable[[T], T]:
        """Decorates a class or function, so that a config can select it by name."""

        def add(target: T) -> T:
            file = _file_of(target)
            self._found.setdefault(name, {})[file] = target
            self._files |= {file} if self._loading is None else {file, self._loading}
            return target

        return add

    def get(self, name: str, project: Path | None = None) -> Any:
        """Finds the object of a name that the user gave.

        An import path may lead to any object: check it before calling it.

        Args:
            name: a registered name or an import path.
            project: the project folder; None: there is none.

        Raises:
            RegistryError: the name is not registered, is registered by two files, or is an import
                path that cannot be imported.
        """
        if ":" in name:
            if project is not None:
                discovery.make_importable(project)
            return import_object(self.noun, name, name)
        self._discover(project, name)
        if found := self._visible(name, project):
            return self._only(name, found)
        entries = importlib.metadata.entry_points(group=f"aetheria.{self._folder}", name=name)
        values = sorted({entry.value for entry in entries})
        if len(values) > 1:
            raise RegistryError(
                f"{self.noun} {name!r}: expected one package that provides it, got "
                f"{' and '.join(values)}; uninstall one, or use the import path"
            )
        if values:
            target = import_object(self.noun, name, values[0])
            self._provided.append(target)
            return target
        raise RegistryError(self._not_found(name, project))

    def find_recorded(self, name: object, project: Path | None, where: str) -> str:
        """Turns a name from a file into one that is safe to give to `get`.

        An import path is accepted only if its object is known without it: if it is registered, an
        installed package provides it, or it lies in a module of the project that is already
        imported.

        Args:
            name: the name as it was read.
            project: the project folder.
            where: the name of the file in errors.

        Raises:
            RegistryError: it is not a name, or an import path that is not accepted.
        """
        if not isinstance(name, str) or not name:
            raise RegistryError(
                f"{where}: expected the name of a {self.noun}, got {shown(name)}; "
                f"give it yourself, as {self._argument}=NAME or --{self._kind} NAME"
            )
        if ":" not in name:
            return name
        self._discover(project)
        for registered in self._found:
            if any(
                name in discovery.import_paths(file, target, project)
                for file, target in self._visible(registered, project).items()
            ):
                return registered
        for entry in importlib.metadata.entry_points(group=f"aetheria.{self._folder}"):
            if entry.value == name:
                return entry.name
        if discovery.is_loaded(name, project):
            return name
        raise RegistryError(
            f"{where}: expected the name of a registered {self.noun}, got the import path "
            f"{shown(name)}, which a file may not choose; if you trust it, give it "
            f"yourself, as {self._argument}={shown(name)} or --{self._kind}; an object of Python, "
            f"give it as {self._kind}="
        )

    def declares(self, target: object) -> bool:
        """Whether an object was registered, or comes from the entry point of a package."""
        registered = (each for found in self._found.values() for each in found.values())
        return any(each is target for each in (*registered, *self._provided))

    def name_of(self, target: object) -> str | None:
        """The name that an object is registered by; None: it is not registered."""
        for name, found in self._found.items():
            if any(each is target for each in found.values()):
                return name
        return None

    def names(self, project: Path | None = None) -> list[str]:
        """Every name that `get` can find, sorted."""
        self._discover(project)
        entries = importlib.metadata.entry_points(group=f"aetheria.{self._folder}")
        known = [name for name in self._found if self._visible(name, project)]
        return sorted({*known, *(entry.name for entry in entries)})

    def _visible(self, name: str, project: Path | None) -> dict[Path, object]:
        """File -> object, of a name; without those of other projects."""
        return {
            file: target
            for file, target in self._found.get(name, {}).items()
            if discovery.is_visible(getattr(target, "__module__", None) or "", project)
        }

    def _only(self, name: str, found: dict[Path, object]) -> object:
        (first, target), *others = found.items()
        for file, _ in others:
            if not discovery.is_same_file(first, file):
                raise RegistryError(
                    f"{self.noun} {name!r}: expected one file that registers it, got "
                    f"{first} and {file}; rename one"
                )
        return target

    def _discover(self, project: Path | None, name: str | None = None) -> None:
        """Imports what may register an object: of the shipped files, those that register `name`.

        A project's files are imported whatever they register, since a name may be computed there.
        """
        marker, self._failed = f"register_{self._kind}", {}
        shipped = marker if name is None else f'{marker}("{name}")'
        for module in discovery.candidate_modules(
            self._package, self._folder, project, marker=marker, shipped_marker=shipped
        ):
            self._loading = module.file.resolve()
            try:
                module.load()
            except (Exception, SystemExit) as error:
                # An error in one file must not keep the names of the others from being found.
                self._failed[module.file] = error
            finally:
                self._loading = None

    @property
    def _argument(self) -> str:
        return f"{self._kind}_name"

    def _not_found(self, name: str, project: Path | None) -> str:
        """The message for an unknown name: the names there are, and where they were searched."""
        names = self.names(project)
        near = difflib.get_close_matches(name[:60], names, n=1, cutoff=0.5)
        lowered = {known.lower(): known for known in names}
        hint = lowered.get(name.lower()) or (near[0] if near else None)
        advice = f"use {hint!r}" if hint else "use one of these, or pkg.mod:Name"
        if "," in name and self._kind in ("logger", "callback"):
            advice = f"write a list, as [{', '.join(map(str.strip, name.split(',')))}]"
        broken = "".join(
            f"; {file} could not be imported ({type(error).__name__}: {error})"
            for file, error in self._failed.items()
        )
        where = [f"{self._package} and installed packages"]
        where += [] if project is None else [str(project / self._folder)]
        return (
            f"{self.noun}: expected one of {', '.join(names)}, got {shown(name)}; {advice}"
            f" (looked in {', '.join(reversed(where))}){broken}{self._unregistered(name, project)}"
        ).replace("\n", " ")

    def _unregistered(self, name: str, project: Path | None) -> str:
        """Lists the project's files that register nothing, first those that mention the name."""
        if project is None:
            return ""
        known = {*self._files, *(file.resolve() for file in self._failed)}
        files = discovery.unregistered_files(project, self._package, self._folder, known)
        if not files:
            return ""
        files.sort(key=lambda file: name not in file.read_text(encoding="utf-8", errors="ignore"))
        first = ", ".join(str(file) for file in files[:_MAX_FILES])
        more = f" and {len(files) - _MAX_FILES} more" if len(files) > _MAX_FILES else ""
        return (
            f"; {first}{more}: no {self.noun} is registered there, add "
            f'@register_{self._kind}("NAME") above it'
        )


def _file_of(target: Any) -> Path:
    """The file that defines a class or function."""
    try:
        return Path(inspect.getfile(target)).resolve()
    except (TypeError, OSError):  # it was defined in an interactive session
        return Path(f"<{getattr(target, '__module__', 'unknown')}>")


MODELS = Registry("model", "models", "aetheria.models")
DATA = Registry("data", "data", "aetheria.data")
LOGGERS = Registry("logger", "loggers", "aetheria.observe.loggers")
CALLBACKS = Registry("callback", "callbacks", "aetheria.observe.callbacks")

register_model = MODELS.register
"""Decorates a class of a `Model`, or a function that makes one: `@register_model("NAME")`."""
register_data = DATA.register
"""Decorates a function that returns a dataset: `@register_data("NAME")`."""
register_logger = LOGGERS.register
"""Decorates a class with a method `notify(event)`: `@register_logger("NAME")`."""
register_callback = CALLBACKS.register
"""Decorates a class with a method `notify(event)`: `@register_callback("NAME")`."""
