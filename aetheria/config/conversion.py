"""Turns what a file or a command line gives into the type of a field, or says what was expected."""

import contextlib
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal

from aetheria.errors import shown

_NULLS = ("none", "None", "null", "Null")
_TRUTHS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def convert(
    value: Any, hint: Any, minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Converts a value from a file to the type of its field, without guessing.

    What people write for it counts: `1e-3` as text is a number, `None` and `none` are null, `yes`
    and `off` are truth values, and one name or mapping is a list of one.

    Raises:
        TypeError: the value is not of that type; the message says what was expected.
        ValueError: it is below `minimum` or above `maximum`.

    >>> convert("1e-3", float)
    0.001
    >>> convert("none", int | None), convert("early_stopping", tuple), convert("yes", bool)
    (None, ('early_stopping',), True)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and NoneType in arguments:
            return None
        hints = [a for a in arguments if a is not NoneType]
        try:
            return _convert_to_any(value, hints, minimum, maximum)
        except TypeError:
            if NoneType in arguments and value in _NULLS:
                return None
            raise
    if origin is dict:
        items = _to_type(value, dict).items()
        return {key: convert(item, arguments[1], minimum, maximum) for key, item in items}
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            near = difflib.get_close_matches(str(value)[:100], arguments, n=1)
            hint_text = f" (did you mean {near[0]!r}?)" if near else ""
            raise TypeError(f"one of {', '.join(arguments)}{hint_text}")
        return value
    converted = _to_type(value, hint)
    if minimum is not None and converted < minimum:
        raise ValueError(f"{minimum} or more")
    if maximum is not None and converted > maximum:
        raise ValueError(f"{maximum} or less")
    return converted


def _convert_to_any(
    value: Any, hints: list[Any], minimum: float | None, maximum: float | None
) -> Any:
    expected = []
    for hint in hints:
        try:
            return convert(value, hint, minimum, maximum)
        except TypeError as error:
            expected.append(str(error))
    raise TypeError(", or ".join(expected))


def _to_type(value: Any, hint: Any) -> Any:
    if hint is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # PyYAML reads 1e-3 as text
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value):
        if hint is int and value == int(value):
            return int(value)
        if hint is float:
            return float(value)
    if hint is dict and isinstance(value, Mapping):
        return _plain(value)
    if hint is tuple and (items := _items(value)) is not None:
        return tuple(_plain(item) for item in items)
    if hint is bool and isinstance(value, str):
        value = _TRUTHS.get(value.lower(), value)
    if hint in (str, bool) and type(value) is hint:
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    raise TypeError(names.get(hint, "a list" if hint is tuple else "keys with values"))


def _items(value: Any) -> Sequence[Any] | None:
    """A list's items; one name or {name: arguments} is an item alone; None if it is neither."""
    if value is None or value in _NULLS:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping) and all(isinstance(v, Mapping | None) for v in value.values()):
        return [{name: arguments} for name, arguments in value.items()]
    return value if isinstance(value, (list, tuple)) else None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _plain(value: Any) -> Any:
    """Copies nested values. Only what JSON can hold passes: `config.json` and snapshots keep it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"only texts, numbers, lists and keys in it (not {shown(value)})")
    return value
