"""The arguments of a call with its defaults filled in, as JSON values, and back.

A config names only the arguments that differ from the defaults, and a default may change with the
code. So a run records every argument.
"""

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from aetheria.config.json_types import JsonObject
from aetheria.plugins.arguments import prepare_call

DESCRIPTION = "__repr__"
# Metadata of a dataclass's field that its class had not at first, and whose default is what the
# class did then: while it has that value it is not recorded, so that older records agree.
ADDED: Mapping[str, Any] = MappingProxyType({"added": True})
# The address of an object in memory, and the prefix that depends on the project's path.
_PLACES = re.compile(r" at 0x[0-9a-fA-F]+|_aetheria_project_[0-9a-f]{8}\.")


def resolve_arguments(
    factory: Callable[..., object],
    where: str,
    arguments: Mapping[str, object],
    positional: str = "",
) -> dict[str, Any]:
    """Gives every argument of a call, defaults included.

    Args:
        factory: a class or function.
        where: the key of the config, for errors.
        arguments: the arguments in the config, name -> value.
        positional: the name of the first argument, if it does not come from the config; it is left
            out.

    Returns:
        Name -> JSON value. A value that is not JSON is recorded as `{"__repr__": text}`.

    Raises:
        ConfigError: an argument is unknown, missing, or of another type.

    >>> def make(width: int = 8, *, scale=1.0, activation=abs): ...
    >>> resolve_arguments(make, "model_params", {"width": 16})
    {'width': 16, 'scale': 1.0, 'activation': {'__repr__': 'abs'}}
    """
    given = prepare_call(factory, where, arguments, positional).keywords
    defaults = _defaults(factory, num_positional=1 if positional else 0)
    return without_added(factory, {**defaults, **given})


def without_added(factory: object, values: Mapping[str, object]) -> dict[str, Any]:
    """The values as JSON, without those of fields marked `ADDED` that have their defaults."""
    fields = dataclasses.fields(factory) if dataclasses.is_dataclass(factory) else ()
    unset = {f.name for f in fields if "added" in f.metadata and values.get(f.name) == f.default}
    return {name: to_json(value) for name, value in values.items() if name not in unset}


def restore_arguments(factory: Callable[..., object], recorded: JsonObject) -> dict[str, Any]:
    """Selects the recorded arguments that a call needs to give the same object as then.

    Left out are arguments that equal the defaults of today, arguments that `factory` no longer
    takes, and values of which only a text was recorded.

    >>> def make(widths=(8, 8), scale=1.0): ...
    >>> restore_arguments(make, {"widths": [4, 4], "scale": 1.0, "gone": 3})
    {'widths': (4, 4)}
    """
    try:
        parameters, defaults = inspect.signature(factory).parameters, _defaults(factory)
    except (TypeError, ValueError):  # it cannot be called; the caller of this function reports that
        return {}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    restored = {}
    for name, value in recorded.items():
        known = name in parameters or takes_any
        if not known or not is_plain(value):
            continue
        if name in defaults and same(to_json(defaults[name]), value):
            continue
        restored[name] = _to_tuple(value) if isinstance(defaults.get(name), tuple) else value
    return restored


def to_json(value: Any) -> Any:
    """Turns a hyperparameter into a JSON value; a value that is not JSON becomes a description."""
    # By exact type: a member of an enumeration may be a str, but cannot be restored from one.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [to_json(item) for item in value]
    return {DESCRIPTION: _describe(value)}


def same(one: object, other: object) -> bool:
    """Whether two JSON values are equal. A NaN equals itself, and 1 equals 1.0."""
    return one == other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _defaults(factory: Callable[..., object], num_positional: int = 0) -> dict[str, Any]:
    parameters = list(inspect.signature(factory).parameters.items())[num_positional:]
    made = {}
    if dataclasses.is_dataclass(factory):
        fields = dataclasses.fields(factory)
        made = {f.name: f.default_factory for f in fields if callable(f.default_factory)}
    return {
        name: made[name]() if name in made else parameter.default
        for name, parameter in parameters
        if parameter.default is not parameter.empty
    }


def _to_tuple(value: object) -> object:
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value


def is_plain(value: object) -> bool:
    """Whether a recorded value has no descriptions in it."""
    if isinstance(value, Mapping):
        return DESCRIPTION not in value and all(is_plain(item) for item in value.values())
    return not isinstance(value, list) or all(is_plain(item) for item in value)


def _describe(value: Any) -> str:
    """A text that is the same in every process: without addresses, in one order, not shortened."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__} of {sorted(map(_describe, value))}"
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        digest = hashlib.sha256(value.tobytes()).hexdigest()[:16]
        return f"{value.dtype}{list(value.shape)}, sha256 {digest}"
    try:
        # The name of a function or class, without its module, which libraries may change.
        name = getattr(value, "__qualname__", None)
        if isinstance(name, str):
            return name
        return _PLACES.sub("", repr(value))
    except Exception as error:  # a user's `__repr__` raises; that must not end the run
        return f"{type(value).__name__} ({type(error).__name__} in its __repr__)"
