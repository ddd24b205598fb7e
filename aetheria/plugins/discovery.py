"""Finds the files that may register something, without importing any that does not."""

import importlib
import importlib.machinery
import importlib.util
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aetheria


@dataclass(frozen=True)
class Module:
    """A file and the name under which it is imported."""

    name: str
    file: Path

    def load(self) -> None:
        """Imports it; what it registers registers itself."""
        importlib.import_module(self.name)


def find_project(config_file: Path | None, project: Path | None = None) -> Path:
    """Chooses the project folder: the one given, else the nearest ancestor of the config file that
    holds a `models/` folder, else the current folder.
    """
    if project is not None:
        return project.resolve()
    if config_file is not None:
        for folder in config_file.resolve().parents:
            if (folder / "models").is_dir():
                return folder
    return Path.cwd()


def candidate_modules(
    package: str, folder: str, project: Path | None, marker: str
) -> Iterator[Module]:
    """Yields the files of the project's folder, then of the package, that mention `marker`.

    Naming the decorator is what makes a file a candidate: a folder `data/` of a project may hold
    scripts that nobody wants to run.
    """
    shipped = _package_folder(package)
    if project is not None:
        for file in _files(project / folder, marker):
            twin = shipped / file.name
            if not (twin.exists() and is_same_file(file, twin)):
                yield Module(_project_module(project, folder, file), file)
    for file in _files(shipped, marker):
        yield Module(f"{package}.{file.stem}", file)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file, or two copies of it (a checkout and its installation)."""
    if not (one.exists() and other.exists()):
        return one == other
    return one.samefile(other) or one.read_bytes() == other.read_bytes()


def _files(folder: Path, marker: str) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (f for f in sorted(folder.glob("*.py")) if not f.name.startswith("_"))
    return [file for file in files if marker in file.read_text(encoding="utf-8", errors="ignore")]


def _package_folder(package: str) -> Path:
    """The folder of one of our packages; `models/` lies beside `aetheria/` in a checkout."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        beside = Path(aetheria.__file__).resolve().parent.parent / package.rpartition(".")[2]
        _import_package(package, beside)
        return beside
    assert spec.submodule_search_locations is not None, package
    return Path(next(iter(spec.submodule_search_locations)))


def _project_module(project: Path, folder: str, file: Path) -> str:
    """Names a project's file so that two projects in one process do not collide, and makes the
    project importable: relative imports work, and so does `from models.layers import …`.
    """
    root = f"_aetheria_project_{zlib.crc32(str(project).encode()):08x}"
    if root not in sys.modules:
        _import_package(root, project)
        sys.path.append(str(project))
    if f"{root}.{folder}" not in sys.modules:
        _import_package(f"{root}.{folder}", project / folder)
    return f"{root}.{folder}.{file.stem}"


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
        spec.loader.exec_module(module)
