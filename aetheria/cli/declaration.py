"""Reads what a command class declares: its fields, their markers and its docstring."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, is_dataclass
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import google

from aetheria.cli.flag import Argument, Flag, Repeated, Section
from aetheria.errors import shown

Declared = TypeVar("Declared")


@dataclass(frozen=True, kw_only=True)
class Option:
    """A flag or a positional argument of a command.

    Attributes:
        field: the field that it sets.
        names: its spellings, `--workdir`, with a former one last; of an argument, its name.
        marker: what the field says about it.
        read: converts the text.
        metavar: the name of the value in the help.
        is_switch: whether it has no value.
        required: whether it must be given.
        default: the default as the help shows it; empty: the help does not show it.
        text: its help.
        section: the title that the help lists it under.
    """

    field: str
    names: tuple[str, ...]
    marker: Flag
    read: Callable[[str], object]
    metavar: str
    is_switch: bool
    required: bool
    default: str
    text: str
    section: str

    @property
    def is_argument(self) -> bool:
        return isinstance(self.marker, Argument)

    @property
    def is_repeated(self) -> bool:
        return isinstance(self.marker, Repeated)

    @property
    def usage(self) -> str:
        """How it is written: `--workdir DIR`."""
        return f"{self.names[0]} {self.metavar}".rstrip()


def list_options(declared: type) -> list[Option]:
    """The options of a command: positional arguments first, then flags, those of sections last."""
    return sorted(_options(declared, "Options"), key=lambda option: not option.is_argument)


def make(declared: type[Declared], given: Mapping[str, object]) -> Declared:
    """Makes a command from the values of its fields and of its sections' fields."""
    hints = get_type_hints(declared)
    own = {name: value for name, value in given.items() if name in hints}
    sections = {
        name: make(hint, given)
        for name, hint in hints.items()
        if isinstance(hint, type) and is_dataclass(hint)
    }
    return declared(**own, **sections)


def _options(declared: type, section: str) -> Iterator[Option]:
    hints, texts = get_type_hints(declared, include_extras=True), _texts(declared)
    named = {field.name: field for field in dataclasses.fields(declared)}
    # A class's own fields come before those that it shares with other commands.
    order = dict.fromkeys(name for base in declared.__mro__ for name in get_annotations(base))
    nested: list[tuple[type, str]] = []
    for name in order:
        hint, marker = _unwrap(hints[name])
        if isinstance(marker, Section):
            nested.append((hint, marker.title))
        else:
            yield _option(named[name], hint, marker, texts.get(name, ""), section)
    for hint, title in nested:
        yield from _options(hint, title)


def _option(field: Field[Any], hint: Any, marker: Flag, text: str, section: str) -> Option:
    name = marker.name or field.name.replace("_", "-")
    names = [name for name in (name, marker.old_name) if name]
    argument = isinstance(marker, Argument)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return Option(
        field=field.name,
        names=(name.upper(),) if argument else tuple(f"--{name}" for name in names),
        marker=marker,
        read=_one_of(choices) if choices else marker.read,
        metavar="|".join(choices) if choices else marker.metavar,
        is_switch=hint is bool,
        required=field.default is MISSING and field.default_factory is MISSING,
        default=_default_text(field.default),
        text=text,
        section="Arguments" if argument else section,
    )


def _unwrap(hint: Any) -> tuple[Any, Flag | Section]:
    """The type in an annotation, without None, and the marker; a plain flag if there is none."""
    marker: Flag | Section = Flag()
    if get_origin(hint) is Annotated:
        hint, *markers = get_args(hint)
        marker = next((each for each in markers if isinstance(each, Flag | Section)), marker)
    if get_origin(hint) in (Union, UnionType):
        hint = next(member for member in get_args(hint) if member is not NoneType)
    return hint, marker


def _texts(declared: type) -> dict[str, str]:
    """What the docstrings of a class and of its bases say about each field."""
    docstrings = [google.parse(base.__doc__ or "") for base in reversed(declared.__mro__)]
    return {
        item.arg_name: " ".join((item.description or "").split()).removesuffix(".")
        for docstring in docstrings
        for item in docstring.params
    }


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, got {shown(text)}")
        return text

    return read


def _default_text(default: object) -> str:
    if default is MISSING or default in (None, False, ()):
        return ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)
