"""Finds the files that may register an object; files that cannot do so are not imported."""

import importlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import aetheria
from aetheria.errors import RegistryError

_PROJECT_PREFIX = "_aetheria_project_"
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Module:
    """A file that may register an object.

    Attributes:
        name: the name under which it is imported.
        file: its path.
        project: the project that it belongs to; None: it is part of Aetheria.
    """

    name: str
    file: Path
    project: Path | None = None

    def load(self) -> None:
        """Imports the file, which registers its objects."""
        if self.project is None:
            importlib.import_module(self.name)
            return
        make_importable(self.project)
        # First in the path: the current folder may be another project with a folder `models`.
        sys.path.insert(0, str(self.project))
        try:
            _import_project(self.project, self.file.parent)
            importlib.import_module(self.name)
        finally:
            sys.path.remove(str(self.project))


def find_project(config_file: Path | None, project: str | Path | None = None) -> Path:
    """Chooses the project folder.

    Args:
        config_file: if `project` is None, the project is the nearest ancestor of this file with a
            folder `models/`; if there is none, the current folder.
        project: the folder that the user gave.

    Raises:
        RegistryError: `project` is not a folder.
    """
    if project is not None:
        folder = Path(project).resolve()
        if not folder.is_dir():
            raise RegistryError(
                f"project: expected a folder, such as one that holds your models/, got {project}; "
                "check the path"
            )
        return folder
    if config_file is not None:
        for folder in Path(config_file).resolve().parents:
            if (folder / "models").is_dir():
                return folder
    return Path.cwd()


def candidate_modules(
    package: str, folder: str, project: Path | None, *, marker: str, shipped_marker: str
) -> Iterator[Module]:
    """Yields the files that mention a marker: those of the project's folder, then of the package.

    Only a file that mentions the decorator is imported: a project's folder `data/` may also have
    scripts, which must not run.

    Args:
        package: the package of Aetheria.
        folder: the folder inside the project.
        project: the project folder; None: there is none.
        marker: the name of the decorator, looked for in the project's files.
        shipped_marker: what is looked for in the files of the package.
    """
    shipped = _package_folder(package)
    if project is not None:
        for file in _files(project / folder, marker):
            counterpart = shipped / file.name
            if not (counterpart.exists() and is_same_file(file, counterpart)):
                yield Module(f"{_project_package(project)}.{folder}.{file.stem}", file, project)
    for file in _files(shipped, shipped_marker):
        yield Module(f"{package}.{file.stem}", file)


def unregistered_files(
    project: Path, package: str, folder: str, known: Collection[Path]
) -> list[Path]:
    """The files in a project's folder that are neither `known` nor a copy of a shipped file."""
    shipped = _package_folder(package)
    files = [file for file in _files(project / folder, "") if file.resolve() not in known]
    return [file for file in files if not is_same_file(file, shipped / file.name)]


def is_visible(module: str, project: Path | None) -> bool:
    """Whether a project may use what a module registers: not if it belongs to another project."""
    if not module.startswith(_PROJECT_PREFIX):
        return True
    return project is not None and module.startswith(f"{_project_package(project)}.")


def import_paths(file: Path, target: object, project: Path | None) -> set[str]:
    """The import paths by which a config may name an object that a file defines."""
    name = getattr(target, "__qualname__", "")
    paths = {f"{getattr(target, '__module__', '')}:{name}"}
    if project is not None and file.is_relative_to(project.resolve()):
        dotted = ".".join(file.relative_to(project.resolve()).with_suffix("").parts)
        paths.add(f"{dotted}:{name}")
    return paths


def is_loaded(path: str, project: Path | None) -> bool:
    """Whether an import path leads into a file of the project that is already imported.

    Importing such a path runs no code.
    """
    module = sys.modules.get(path.partition(":")[0])
    file = getattr(module, "__file__", None)
    if project is None or file is None:
        return False
    return is_own(Path(file), project)


def is_own(file: Path, project: Path) -> bool:
    """Whether a file belongs to a project. Packages installed inside it, as in `.venv`, do not."""
    file = file.resolve()
    is_installed = any(part in _PACKAGE_FOLDERS for part in file.parts)
    in_python = file.is_relative_to(sysconfig.get_path("stdlib"))
    return file.is_relative_to(project.resolve()) and not is_installed and not in_python


def make_importable(project: Path) -> None:
    """Adds the project to the end of Python's path, so that `from models.layers import …` works."""
    if str(project) not in sys.path:
        sys.path.append(str(project))


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file or equal files, as in a checkout and its installation."""
    if not (one.exists() and other.exists()):
        return one == other
    return one.samefile(other) or one.read_bytes() == other.read_bytes()


def _files(folder: Path, marker: str) -> list[Path]:
    if not folder.is_dir():
        return []
    # Names that begin with a dot belong to editors, whose lock files are links to nothing.
    files = (f for f in sorted(folder.glob("*.py")) if f.name[0] not in "_." and f.is_file())
    return [file for file in files if marker in file.read_text(encoding="utf-8", errors="ignore")]


def _package_folder(package: str) -> Path:
    """The folder of a package of Aetheria; in a checkout, `models/` lies beside `aetheria/`."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        beside = Path(aetheria.__file__).resolve().parent.parent / package.rpartition(".")[2]
        _import_package(package, beside)
        return beside
    assert spec.submodule_search_locations is not None, package
    return Path(next(iter(spec.submodule_search_locations)))


def _project_package(project: Path) -> str:
    """A package name for a project, so that the files of two projects in a process do not clash."""
    return f"{_PROJECT_PREFIX}{zlib.crc32(str(project).encode()):08x}"


def _import_project(project: Path, folder: Path) -> None:
    """Imports the packages around a project's file, so that relative imports work."""
    root = _project_package(project)
    for name, path in ((root, project), (f"{root}.{folder.name}", folder)):
        if name not in sys.modules:
            _import_package(name, path)


def _import_package(name: str, folder: Path) -> None:
    init = folder / "__init__.py"
    if init.exists():
        spec = importlib.util.spec_from_file_location(
            name, init, submodule_search_locations=[str(folder)]
        )
    else:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
