"""Writes the config's schema as a JSON Schema, with which editors complete and check configs.

It accepts whatever the checks of a config accept, and refuses most of what they refuse. It cannot
compare keys with each other, and does not apply limits to numbers in quotes.
"""

import types
import typing
from collections.abc import Sequence
from types import NoneType
from typing import Annotated, Any, Literal

from aetheria.config.conversion import NULL_WORDS
from aetheria.config.description import Key
from aetheria.config.limits import Limits

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_Schema = dict[str, Any]
# PyYAML reads 1e-3 as text, and so does YAML 1.1 in general.
_NUMBER_TEXT = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_NULL_TEXT = f"^({'|'.join(NULL_WORDS)})$"
_TYPES: dict[type, _Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    float: {"type": ["number", "string"], "pattern": _NUMBER_TEXT},
}
_ARGUMENTS = {"type": ["object", "null"]}
_LISTENERS: _Schema = {  # a list, or what stands for one: a name, {name: arguments}, or null
    "type": ["array", "string", "object", "null"],
    "items": {
        "type": ["string", "object"],
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": _ARGUMENTS,
    },
    "additionalProperties": _ARGUMENTS,
}


def json_schema(keys: Sequence[Key]) -> _Schema:
    """Returns the JSON Schema (draft 2020-12) of a config with these keys.

    >>> from aetheria.config.description import describe
    >>> json_schema(describe())["properties"]["epochs"]["minimum"]
    1
    """
    return {"$schema": _DRAFT, "title": "Config of an Aetheria run", **_object(keys)}


def _object(keys: Sequence[Key]) -> _Schema:
    schema: _Schema = {
        "type": "object",
        "properties": {key.name.rpartition(".")[2]: _property(key) for key in keys},
        "additionalProperties": False,
    }
    if required := [key.name for key in keys if key.required]:
        schema["required"] = required
    return schema


def _property(key: Key) -> _Schema:
    if key.keys:
        return {"description": key.description, **_object(key.keys)}
    schema = {"description": key.description, **_value(key.hint)}
    if not key.required:
        schema["default"] = list(key.default) if isinstance(key.default, tuple) else key.default
    return schema


def _value(hint: object) -> _Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [note for note in arguments[1:] if isinstance(note, Limits)]
        return {**_value(arguments[0]), **_limits(limits)}
    if origin in (types.UnionType, typing.Union):
        return _union(arguments)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return _LISTENERS
    if origin is dict:
        values = {} if arguments[1] is Any else {"additionalProperties": _value(arguments[1])}
        return {"type": "object", **values}
    if isinstance(hint, type) and hint in _TYPES:
        return _TYPES[hint]
    raise TypeError(f"no JSON Schema for the type {hint}")


def _limits(limits: Sequence[Limits]) -> _Schema:
    schema = {}
    for each in limits:
        if each.minimum is not None:
            schema["minimum"] = each.minimum
        if each.maximum is not None:
            schema["maximum"] = each.maximum
    return schema


def _union(hints: Sequence[object]) -> _Schema:
    members = [_value(hint) for hint in hints if hint is not NoneType]
    if NoneType not in hints:
        return {"anyOf": members}
    (member,) = members
    if "enum" in member:
        null_text = {"type": "string", "pattern": _NULL_TEXT}
        return {"anyOf": [{"enum": [*member["enum"], None]}, null_text]}
    allowed = member["type"] if isinstance(member["type"], list) else [member["type"]]
    patterns = [member["pattern"]] if "pattern" in member else []
    return {
        **member,
        "type": sorted({*allowed, "string", "null"}),
        "pattern": "|".join([*patterns, _NULL_TEXT]),
    }
