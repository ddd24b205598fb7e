"""Names to objects. A file that registers something is found by where it lies; nothing lists it.

Searched, in this order of precedence: an import path (`pkg.mod:Name`); the project folder; what
ships with Aetheria; entry points of installed packages. A name found in two files is an error.

A name in a config or an argument comes from the caller. A name in a snapshot, a file of weights or
a dump comes from whoever wrote that file: `find_recorded` imports nothing that such a name says.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aetheria.errors import RegistryError, shown
from aetheria.plugins import discovery

T = TypeVar("T")
_MOST_FILES = 3  # of those that register nothing, in an error


class Registry:
    """Objects of one kind by name.

    Args:
        kind: `model`, `data`, `logger` or `callback`; the decorator is `register_<kind>`.
        folder: the folder of a project in which files may register one.
        package: the package of Aetheria whose files may register one.
    """

    def __init__(self, kind: str, folder: str, package: str):
        self._kind, self._folder, self._package = kind, folder, package
        self.noun = {"data": "dataset"}.get(kind, kind)
        self._found: dict[str, dict[Path, Any]] = {}
        self._failed: dict[Path, BaseException] = {}
        self._provided: list[Any] = []
        self._loading: Path | None = None
        self._files: set[Path] = set()

    def register(self, name: str) -> Callable[[T], T]:
        """Decorates a class or function so that a config can name it."""

        def add(target: T) -> T:
            file = _file_of(target)
            self._found.setdefault(name, {})[file] = target
            self._files |= {file} if self._loading is None else {file, self._loading}
            return target

        return add

    def get(self, name: str, project: Path | None = None) -> Any:
        """Finds what a name that the caller gave stands for. It may be anything: check it before
        it is called.

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
                f"{self.noun} {name!r}: expected one package that provides it, got "
                f"{' and '.join(values)}; uninstall one, or write the import path"
            )
        if values:
            target = self._import_path(name, values[0])
            self._provided.append(target)
            return target
        raise RegistryError(self._not_found(name, project))

    def find_recorded(self, name: Any, project: Path | None, where: str) -> str:
        """Turns a name that a file holds into one that may be given to `get`.

        An import path counts only where it names what is known without it: what is registered, what
        an installed package provides, or what lies in a module of the project that the caller has
        imported.

        Args:
            name: as it was read.
            project: the project folder.
            where: what to call the file in errors.

        Raises:
            RegistryError: it is no name, or an import path that is not known.
        """
        if not isinstance(name, str) or not name:
            raise RegistryError(
                f"{where}: expected the name of a {self.noun}, got {shown(name)}; "
                f"give it yourself, as {self._argument}=NAME or --{self._kind} NAME"
            )
        if ":" not in name:
            return name
        self._discover(project)
        for known in self._found:
            if any(
                name in discovery.import_paths(file, target, project)
                for file, target in self._visible(known, project).items()
            ):
                return known
        for entry in importlib.metadata.entry_points(group=f"aetheria.{self._folder}"):
            if entry.value == name:
                return entry.name
        if discovery.is_loaded(name, project):
            return name
        raise RegistryError(
            f"{where}: expected the name of a registered {self.noun}, got the import path "
            f"{shown(name)}, which a file may not choose; if you trust it, give it "
            f"yourself, as {self._argument}={shown(name)} or --{self._kind}"
        )

    def declares(self, target: Any) -> bool:
        """Whether something was registered, or comes from the entry point of a package."""
        registered = (each for found in self._found.values() for each in found.values())
        return any(each is target for each in (*registered, *self._provided))

    def names(self, project: Path | None = None) -> list[str]:
        """Every name that can be asked for, sorted."""
        self._discover(project)
        entries = importlib.metadata.entry_points(group=f"aetheria.{self._folder}")
        known = [name for name in self._found if self._visible(name, project)]
        return sorted({*known, *(entry.name for entry in entries)})

    def _visible(self, name: str, project: Path | None) -> dict[Path, Any]:
        """What is registered under a name, but for what belongs to another project."""
        found = self._found.get(name, {}).items()
        return {
            f: t
            for f, t in found
            if discovery.is_visible(getattr(t, "__module__", None) or "", project)
        }

    def _only(self, name: str, found: dict[Path, Any]) -> Any:
        (first, target), *others = found.items()
        for file, _ in others:
            if not discovery.is_same_file(first, file):
                raise RegistryError(
                    f"{self.noun} {name!r}: expected one file that registers it, got "
                    f"{first} and {file}; rename one"
                )
        return target

    def _discover(self, project: Path | None) -> None:
        marker, self._failed = f"register_{self._kind}", {}
        for module in discovery.candidate_modules(self._package, self._folder, project, marker):
            self._loading = module.file.resolve()
            try:
                module.load()
            except (Exception, SystemExit) as error:
                # Another file's fault must not hide this one's name.
                self._failed[module.file] = error
            finally:
                self._loading = None

    @property
    def _argument(self) -> str:
        return f"{self._kind}_name"

    def _import_path(self, name: str, path: str) -> Any:
        module_name, _, attribute = path.partition(":")
        if _is_standard(module_name):
            # Not imported to find that out: `antigravity` opens a browser.
            raise RegistryError(
                f"{self.noun} {shown(name)}: expected a {self.noun}, got an import path "
                "into Python's standard library, which has none; name another"
            )
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except RegistryError:
            raise
        except (Exception, SystemExit) as error:
            raise RegistryError(
                f"{self.noun} {name!r}: expected {path} to import, as pkg.mod:Name does, got "
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
        where = [f"{self._package} and installed packages"]
        where += [] if project is None else [str(project / self._folder)]
        return (
            f"{self.noun}: expected one of {', '.join(names)}, got {shown(name)}; {advice}"
            f" (looked in {', '.join(reversed(where))}){broken}{self._silent(name, project)}"
        ).replace("\n", " ")

    def _silent(self, name: str, project: Path | None) -> str:
        """Names the project's files that register nothing, those first that mention a name."""
        if project is None:
            return ""
        known = {*self._files, *(file.resolve() for file in self._failed)}
        files = discovery.silent_files(project, self._package, self._folder, known)
        if not files:
            return ""
        files.sort(key=lambda file: name not in file.read_text(encoding="utf-8", errors="ignore"))
        first = ", ".join(str(file) for file in files[:_MOST_FILES])
        more = f" and {len(files) - _MOST_FILES} more" if len(files) > _MOST_FILES else ""
        return (
            f"; {first}{more}: no {self.noun} is registered there, write "
            f'@register_{self._kind}("NAME") above it'
        )


def _is_standard(module: str) -> bool:
    """Whether importing a module would import Python's own, and no file of that name elsewhere."""
    top = module.partition(".")[0]
    if top not in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(top)  # of a name without dots: imports nothing
    except ValueError:
        return True
    if spec is None or spec.origin is None:
        return False
    own = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    is_file = spec.origin not in ("built-in", "frozen")
    return not is_file or any(Path(spec.origin).is_relative_to(folder) for folder in own)


def _file_of(target: Any) -> Path:
    try:
        return Path(inspect.getfile(target)).resolve()
    except (TypeError, OSError):  # typed into an interpreter
        return Path(f"<{getattr(target, '__module__', 'unknown')}>")


MODELS = Registry("model", "models", "aetheria.models")
DATA = Registry("data", "data", "aetheria.data")
LOGGERS = Registry("logger", "loggers", "aetheria.observe.loggers")
CALLBACKS = Registry("callback", "callbacks", "aetheria.observe.callbacks")

register_model = MODELS.register
register_data = DATA.register
register_logger = LOGGERS.register
register_callback = CALLBACKS.register
