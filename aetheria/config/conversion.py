"""Converts a value from a file or a command line to the type of a field."""

import contextlib
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal

from aetheria.config.limits import Limits
from aetheria.errors import shown

NULL_WORDS = ("none", "None", "null", "Null")
_BOOL_WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_NAMES: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    tuple: "a list",
    dict: "keys with values",
}


def convert(value: object, hint: object) -> Any:
    """Converts a value from a file to the type of its field.

    Common spellings are accepted: `1e-3` as text is a number, `None` and `none` are null, `yes`
    and `off` are booleans, and one name or mapping is a list of one item. Nothing is guessed.

    Args:
        value: what the file or the command line contains.
        hint: the type; `Annotated` with `Limits` also limits the range.

    Raises:
        TypeError: the value has another type; the message says what was expected.
        ValueError: the value is out of range; the message names the limit.

    >>> convert("1e-3", float)
    0.001
    >>> convert("none", int | None), convert("early_stopping", tuple), convert("yes", bool)
    (None, ('early_stopping',), True)
    >>> convert(0, Annotated[int, Limits(1)])
    Traceback (most recent call last):
    ...
    ValueError: 1 or more
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = convert(value, arguments[0])
        for note in arguments[1:]:
            if isinstance(note, Limits):
                note.check(converted)
        return converted
    if origin in (types.UnionType, typing.Union):
        return _convert_to_union(value, arguments)
    if origin is dict:
        items = _to_type(value, dict).items()
        return {key: convert(item, arguments[1]) for key, item in items}
    if origin is tuple:  # the code that uses a list checks its items
        return _to_type(value, tuple)
    if origin is Literal:
        return _convert_to_choice(value, arguments)
    return value if hint is Any else _to_type(value, hint)


def _convert_to_union(value: object, hints: Sequence[object]) -> object:
    if value is None and NoneType in hints:
        return None
    expected = []
    for hint in hints:
        if hint is NoneType:
            continue
        try:
            return convert(value, hint)
        except TypeError as error:
            expected.append(str(error))
    if NoneType in hints and value in NULL_WORDS:
        return None
    raise TypeError(", or ".join(expected))


def _convert_to_choice(value: object, choices: Sequence[str]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value)[:100], choices, n=1)
    suggestion = f" (did you mean {near[0]!r}?)" if near else ""
    raise TypeError(f"one of {', '.join(choices)}{suggestion}")


def _to_type(value: object, hint: object) -> Any:
    if hint is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # PyYAML reads 1e-3 as text
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value):
        if hint is int and value == int(value):
            return int(value)
        if hint is float:
            return float(value)
    if hint is dict and isinstance(value, Mapping):
        return _copy_plain(value)
    if hint is tuple and (items := _list_items(value)) is not None:
        return tuple(_copy_plain(item) for item in items)
    if hint is bool and isinstance(value, str):
        value = _BOOL_WORDS.get(value.lower(), value)
    if hint in (str, bool) and type(value) is hint:
        return value
    raise TypeError(_NAMES[hint])


def _list_items(value: object) -> Sequence[object] | None:
    """The items of a list; one name or {name: arguments} is a list of one; None: not a list."""
    if value is None or value in NULL_WORDS:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping) and all(isinstance(v, Mapping | None) for v in value.values()):
        return [{name: arguments} for name, arguments in value.items()]
    return value if isinstance(value, (list, tuple)) else None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def _copy_plain(value: object) -> object:
    """Copies nested values.

    Raises:
        TypeError: a value that JSON has no type for, so `config.json` could not store it.
    """
    if isinstance(value, Mapping):
        return {str(key): _copy_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy_plain(item) for item in value]
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"only texts, numbers, lists and keys in it (not {shown(value)})")
    return value
