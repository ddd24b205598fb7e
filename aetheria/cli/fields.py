"""Fields that several commands have, each declared and described once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.flag import Argument, Flag, Repeated


@dataclass(frozen=True, kw_only=True)
class ProjectFields:
    """Fields of every command that needs a model.

    Attributes:
        project: the folder that contains your models/ (default: found from the config file, else
            the current folder).
        traceback: print the whole traceback of an error, not only your own frames.
    """

    project: Annotated[Path | None, Flag(values.local_path, "DIR")] = None
    traceback: bool = False


@dataclass(frozen=True, kw_only=True)
class OverrideFields:
    """The field of every command that reads config keys.

    Attributes:
        overrides: override a key of the config, dotted if nested; may be repeated, and may be
            written --config.KEY=VALUE.
    """

    overrides: Annotated[tuple[str, ...], Repeated(metavar="KEY=VALUE", name="set")] = ()


@dataclass(frozen=True, kw_only=True)
class ConfigFields(OverrideFields, ProjectFields):
    """Fields of every command that reads a config file.

    Attributes:
        config_file: a .py, .yaml or .json file, or a run folder, for the config of that run.
    """

    config_file: Annotated[Path, Argument(values.local_path, name="CONFIG")]


@dataclass(frozen=True, kw_only=True)
class ModelFields(ProjectFields):
    """Fields of every command that reads a file which names a model.

    Attributes:
        model: a registered name, or pkg.mod:Name (default: the registered name that the file
            contains; an import path in the file is not followed).
    """

    model: Annotated[str | None, Flag(metavar="NAME")] = None
