"""Reads what a command class declares (fields, markers, docstring) for cyclopts, and makes the
command from what cyclopts returns.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import Parameter, Token
from docstring_parser import google

from aetheria.cli.flag import Argument, Flag, Repeated, Section
from aetheria.errors import shown

Declared = TypeVar("Declared")


def signature_of(declared: type) -> inspect.Signature:
    """A parameter for each field: positional arguments first, the flags of sections last."""
    return inspect.Signature(sorted(_parameters(declared, "Options"), key=lambda each: each.kind))


def make(declared: type[Declared], given: Mapping[str, object]) -> Declared:
    """Makes a command from the texts of its fields and of its sections' fields."""
    values: dict[str, object] = {}
    for name, annotation in get_type_hints(declared, include_extras=True).items():
        hint, marker = _unwrap(annotation)
        if isinstance(hint, type) and is_dataclass(hint):
            values[name] = make(hint, given)
        elif name in given:
            values[name] = _read(hint, marker, given[name])
    return declared(**values)


def _read(hint: object, marker: Flag | Section, text: object) -> object:
    """The value of a field whose text has been checked."""
    if hint is bool or isinstance(marker, Section) or get_origin(hint) is Literal:
        return text
    if isinstance(marker, Repeated):
        return tuple(marker.read(each) for each in text) if isinstance(text, tuple) else text
    return marker.read(text) if isinstance(text, str) else text


def _parameters(declared: type, group: str) -> Iterator[inspect.Parameter]:
    hints, texts = get_type_hints(declared, include_extras=True), _texts(declared)
    named = {field.name: field for field in fields(declared)}
    # A class's own fields come before those that it shares with other commands, sections last.
    order = dict.fromkeys(n for base in declared.__mro__ for n in inspect.get_annotations(base))
    read = [(name, *_unwrap(hints[name])) for name in order]
    for name, hint, marker in read:
        if isinstance(marker, Flag):
            yield _parameter(named[name], hint, marker, help=texts.get(name), group=group)
    for _, hint, marker in read:
        if isinstance(marker, Section):
            yield from _parameters(hint, marker.title)


def _parameter(field: Field[Any], hint: Any, marker: Flag, **shared: Any) -> inspect.Parameter:
    """The parameter for a field. To cyclopts, its value is a text, which `marker.read` checks; with
    another value than a text, it would ask pydantic, if anybody has imported that.
    """
    name = marker.name or field.name.replace("_", "-")
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    is_argument, repeated = isinstance(marker, Argument), isinstance(marker, Repeated)
    read = _one_of(choices) if choices else marker.read
    parameter = Parameter(
        name=name.upper() if is_argument else [f"--{n}" for n in (name, marker.old_name) if n],
        metavar="|".join(choices) or marker.metavar,
        show_default=_default_text(field.default),
        allow_leading_hyphen=marker.takes_dash,
        converter=None if hint is bool else _converter(read, repeated),
        **{**shared, "group": "Arguments"} if is_argument else shared,
    )
    required = field.default is MISSING and field.default_factory is MISSING
    text = bool if hint is bool else tuple[str, ...] if repeated else str
    return inspect.Parameter(
        field.name,
        inspect.Parameter.POSITIONAL_ONLY if is_argument else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else False if hint is bool else None,
        annotation=Annotated[text if required or hint is bool else text | None, parameter],
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
    return {
        item.arg_name: " ".join((item.description or "").split()).removesuffix(".")
        for base in reversed(declared.__mro__)
        for item in google.parse(base.__doc__ or "").params
    }


def _converter(
    read: Callable[[str], object], repeated: bool
) -> Callable[[object, Sequence[Token]], object]:
    def check(_: object, tokens: Sequence[Token]) -> object:
        for token in tokens:
            read(token.value)
        texts = tuple(token.value for token in tokens)
        return texts if repeated else texts[0]

    return check


def _one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, got {shown(text)}")
        return text

    return read


def _default_text(default: object) -> str:
    """A default as the help shows it; empty where the help does not show it."""
    if default is MISSING or default in (None, False, ()):
        return ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)
