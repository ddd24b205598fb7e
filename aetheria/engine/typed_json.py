"""Dataclasses to JSON values and back; every field that is read is checked.

A field whose default is None may be absent, and is absent where it is None. Every other field must
be there. Whole numbers are counts: none is negative.
"""

import functools
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from aetheria.errors import SnapshotError, shown

JsonObject: TypeAlias = Mapping[str, object]  # the values are JSON values
T = TypeVar("T")
_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number of at least 0",
    float: "a number",
}


def to_json(value: object) -> object:
    """Turns dataclasses into objects and tuples into lists, at every depth.

    >>> to_json({"shape": (3, 4)})
    {'shape': [3, 4]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        items = {field: getattr(value, field.name) for field in fields(value)}
        return {f.name: to_json(v) for f, v in items.items() if v is not None or not _may_lack(f)}
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def read_json(kind: type[T], value: object, where: str) -> T:
    """Makes a dataclass of a JSON object.

    Args:
        kind: the dataclass.
        value: a JSON value of any kind.
        where: what to call it in errors.

    Raises:
        SnapshotError: a field is missing, unknown, or of another type; it is named.
    """
    made = _read(kind, value, where)
    assert isinstance(made, kind)
    return made


def _read(hint: object, value: object, where: str) -> object:
    if hint is object:
        return value
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return _read_union(args, value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return _read_dataclass(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        if len(kinds) != len(value):
            raise _error(where, f"{len(kinds)} items", value)
        pairs = zip(kinds, value, strict=True)
        return tuple(_read(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(pairs))
    if origin is Mapping and isinstance(value, Mapping):
        for name in value:
            _read(str, name, where)
        return {n: _read(args[1], item, f"{where}.{_short(n)}") for n, item in value.items()}
    if type(value) is hint and not (isinstance(value, int) and value < 0):
        return value
    if hint is float and type(value) in (int, float):
        return _as_float(value, where)
    names = {tuple: "a list", Mapping: "an object"} if origin else _NAMES
    raise _error(where, names.get(origin or hint, "null"), value)


def _read_union(kinds: tuple[object, ...], value: object, where: str) -> object:
    """Takes the first kind that fits; an error is that of the last."""
    if value is None and types.NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others:
        try:
            return _read(kind, value, where)
        except SnapshotError:
            continue
    return _read(last, value, where)


def _read_dataclass(kind: type, value: object, where: str) -> object:
    if not isinstance(value, Mapping):
        raise _error(where, "an object", value)
    hints = _hints(kind)
    for name in value:
        if name not in hints:
            raise SnapshotError(f"{where}: expected no field {_short(name)}, got one")
    for field in fields(kind):
        if field.name not in value and not _may_lack(field):
            raise SnapshotError(f"{where}: expected a field {field.name}, got none")
    return kind(**{n: _read(hints[n], item, f"{where}.{n}") for n, item in value.items()})


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind)


def _may_lack(field: "Field[object]") -> bool:
    return field.default is None and field.default is not MISSING


def _as_float(value: object, where: str) -> float:
    assert isinstance(value, int | float)
    try:
        return float(value)
    except OverflowError:
        raise _error(where, "a number that a float holds", value) from None


def _short(name: object) -> str:
    """A name as a message shows it: as it is, unless it is long or not one word."""
    text = str(name)
    return text if len(text) <= 60 and text.isprintable() else shown(name)


def _error(where: str, expected: str, value: object) -> SnapshotError:
    return SnapshotError(f"{where}: expected {expected}, got {shown(value)}")
