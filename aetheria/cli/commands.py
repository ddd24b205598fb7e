"""Where the commands are. Each package in `aetheria.tools` registers its own, so that a new tool
changes no file outside its folder; a command's module is imported when it is needed, not before.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Words: TypeAlias = tuple[str, ...]

_ABOUT = "Trains models; a run is a function of its config."
_TRAIN = {("train",): "aetheria.cli.train:TrainCommand"}
_TOOLS = "aetheria.tools"


class Command(Protocol):
    """Command: a frozen dataclass that does one thing and returns an exit code."""

    def execute(self) -> int: ...


@dataclass(frozen=True)
class CommandTable:
    """The commands by the words that start them.

    Attributes:
        commands: words -> `module:Class`.
        groups: words that several commands share -> what these commands are for.
    """

    commands: Mapping[Words, str]
    groups: Mapping[Words, str]

    def choose(self, argv: Sequence[str]) -> Words:
        """The longest beginning of an argument vector that starts a command or a group."""
        known = sorted({*self.commands, *self.groups}, key=len)
        return [words for words in known if words == tuple(argv[: len(words)])][-1]

    def load(self, words: Words) -> type[Command]:
        """Imports a command's class."""
        module, _, name = self.commands[words].partition(":")
        return getattr(importlib.import_module(module), name)

    def about(self, words: Words) -> str:
        """The docstring of a command, or what a group is for."""
        return (self.load(words).__doc__ if words in self.commands else self.groups[words]) or ""

    def below(self, words: Words) -> list[Words]:
        """The commands and groups one word further."""
        known = dict.fromkeys([*self.commands, *self.groups])
        return [path for path in known if path and path[:-1] == words]


def find_commands() -> CommandTable:
    """Lists `train` and what the packages in `aetheria.tools` declare as `COMMANDS`. A group's help
    is the docstring of the first package that has a command in it.
    """
    commands: dict[Words, str] = dict(_TRAIN)
    groups: dict[Words, str] = {(): _ABOUT}
    folder = importlib.import_module(_TOOLS).__path__
    for tool in pkgutil.iter_modules(folder, f"{_TOOLS}."):
        package = importlib.import_module(tool.name)
        commands.update(package.COMMANDS)
        for words in package.COMMANDS:
            if words[:-1] not in package.COMMANDS:
                groups.setdefault(words[:-1], package.__doc__ or "")
    return CommandTable(commands, groups)
