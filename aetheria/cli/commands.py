"""Where the commands are. Each package in `aetheria.tools` registers its own, so that a new tool
changes no file outside its folder; a command's module is imported when it is needed, not before.
"""

import importlib
import pkgutil
from typing import Any, Protocol, TypeAlias

Words: TypeAlias = tuple[str, ...]
_TOOLS = "aetheria.tools"


class Command(Protocol):
    """Command: a frozen dataclass that does one thing and returns an exit code."""

    def execute(self) -> int: ...


def find_commands() -> dict[Words, str]:
    """Words -> `module:Class` of the command that they start, or, where several commands share
    them, the package whose docstring says what these are for.
    """
    found = {(): "aetheria", ("train",): "aetheria.cli.train:TrainCommand"}
    folder = importlib.import_module(_TOOLS).__path__
    for tool in pkgutil.iter_modules(folder, f"{_TOOLS}."):
        for words, where in importlib.import_module(tool.name).COMMANDS.items():
            found[words] = where
            found.setdefault(words[:-1], tool.name)
    return found


def load(where: str) -> Any:
    """Imports a command's class, or a package."""
    module, _, name = where.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, name) if name else loaded
