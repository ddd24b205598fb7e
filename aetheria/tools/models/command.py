"""`aetheria models [NAME]`: what a config can name, and what it takes."""

import difflib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import aetheria
from aetheria.cli.fields import ProjectFields
from aetheria.cli.flag import Argument
from aetheria.cli.table import print_table
from aetheria.errors import AetheriaError, ExitCode, shown

if TYPE_CHECKING:
    from aetheria.plugins.registry import Registry

_WIDTH = 78  # of a summary


@dataclass(frozen=True, kw_only=True)
class ModelsCommand(ProjectFields):
    """Lists the models, datasets, loggers and callbacks that a config can name.

    Examples:
        aetheria models
        aetheria models SimpleMLP

    Exit codes:
        0: listed
        2: a mistake

    Attributes:
        name: one of them; its arguments are listed (default: all of them).
    """

    name: Annotated[str | None, Argument(name="NAME")] = None

    def execute(self) -> int:
        """Prints a table. Raises AetheriaError if there is no such name."""
        from aetheria.plugins.discovery import find_project

        project = find_project(None, self.project)
        if self.name is None:
            _print_all(project)
        else:
            _print_one(self.name, project)
        return int(ExitCode.OK)


def _keys() -> "dict[Registry, tuple[str, str]]":
    """Registry -> the keys of a config that name one of it, and that give its arguments."""
    from aetheria.plugins import CALLBACKS, DATA, LOGGERS, MODELS

    return {
        MODELS: ("model_name", "model_params"),
        DATA: ("data_name", "data_params"),
        LOGGERS: ("loggers", ""),
        CALLBACKS: ("callbacks", ""),
    }


def _print_all(project: Path) -> None:
    def describe(registry: "Registry", name: str) -> str:
        try:
            return _summary(registry.get(name, project))
        except AetheriaError as error:  # the others are there all the same
            return _cut(f"cannot be used: {error}")

    rows = [
        (registry.noun, name, describe(registry, name))
        for registry in _keys()
        for name in registry.names(project)
    ]
    print_table(["kind", "name", "what it is"], rows)
    print("aetheria models NAME lists the arguments of one")
    package = Path(aetheria.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):  # of a wheel, or of a clone
        if files := sorted(str(file) for file in folder.glob("*.py")):
            print(f"example configs: {', '.join(files)}")
            return


def _print_one(name: str, project: Path) -> None:
    kinds = _keys()
    registry = next((each for each in kinds if name in each.names(project)), None)
    if registry is None:
        known = [known for each in kinds for known in each.names(project)]
        near = difflib.get_close_matches(name[:60], known, n=1, cutoff=0.5)
        raise AetheriaError(
            f"models: expected one of {', '.join(known)}, got {shown(name)}; "
            f"{f'did you mean {near[0]!r}?' if near else 'use one of these'}"
        )
    target = registry.get(name, project)
    key, arguments = kinds[registry]
    print(f"{name}, a {registry.noun} ({key}): {_summary(target)}")
    print(f"in {inspect.getsourcefile(target)}\n")
    rows = [
        (parameter.name, _type(parameter), _default(parameter))
        for parameter in inspect.signature(target).parameters.values()
        if not (parameter.name == "context" and not arguments)
    ]
    print_table([arguments or "argument", "type", "default"], rows)


def _summary(target: object) -> str:
    """The first sentence of a docstring, in one line."""
    return _cut(" ".join((inspect.getdoc(target) or "").partition("\n\n")[0].split()))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _type(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    if kind is parameter.empty:
        return ""
    return kind.__name__ if isinstance(kind, type) and "[" not in str(kind) else str(kind)


def _default(parameter: inspect.Parameter) -> str:
    return "(needed)" if parameter.default is parameter.empty else repr(parameter.default)
