"""What a factory is called with once its defaults are filled in, as JSON values, and back.

A config names only what differs from the defaults, and a default lives in code that may change. A
run therefore records every argument.
"""

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from aetheria.plugins.arguments import prepare_call

DESCRIPTION = "__repr__"
# Where an object lies in memory, and the prefix that says where its project lies on a disk.
_PLACES = re.compile(r" at 0x[0-9a-fA-F]+|_aetheria_project_[0-9a-f]{8}\.")


def resolve_arguments(
    factory: Callable[..., Any], where: str, arguments: Mapping[str, Any], positional: str = ""
) -> dict[str, Any]:
    """Names every argument of a call with its value, defaults included.

    Args:
        factory: a class or function.
        where: the config key, for errors.
        arguments: what the config gives.
        positional: the first argument, if somebody else gives it; it is left out.

    Returns:
        name -> JSON value. What JSON cannot hold is `{"__repr__": text}`.

    Raises:
        ConfigError: an argument is unknown, missing, or of another type.

    >>> def make(width: int = 8, *, scale=1.0, activation=abs): ...
    >>> resolve_arguments(make, "model_params", {"width": 16})
    {'width': 16, 'scale': 1.0, 'activation': {'__repr__': 'abs'}}
    """
    given = prepare_call(factory, where, arguments, positional).keywords
    values = {**_defaults(factory, int(bool(positional))), **given}
    return {name: to_json(value) for name, value in values.items()}


def restore_arguments(factory: Callable[..., Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Picks of recorded arguments those that a call must give to mean what it meant then.

    Left out: what the defaults say today, what `factory` no longer takes, and what was recorded as
    text alone.

    >>> def make(widths=(8, 8), scale=1.0): ...
    >>> restore_arguments(make, {"widths": [4, 4], "scale": 1.0, "gone": 3})
    {'widths': (4, 4)}
    """
    try:
        parameters, defaults = inspect.signature(factory).parameters, _defaults(factory)
    except (TypeError, ValueError):  # nothing that can be called; whoever calls it says so
        return {}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    restored = {}
    for name, value in recorded.items():
        known = name in parameters or takes_any
        if not known or not _is_plain(value):
            continue
        if name in defaults and same(to_json(defaults[name]), value):
            continue
        restored[name] = _to_tuple(value) if isinstance(defaults.get(name), tuple) else value
    return restored


def to_json(value: Any) -> Any:
    """Turns a hyperparameter into a JSON value; what JSON cannot hold becomes its description."""
    # By exact type: an enumeration's member is a text too, and is not made again from one.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [to_json(item) for item in value]
    return {DESCRIPTION: _describe(value)}


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; a NaN equals itself, 1 and 1.0 are one number."""
    return one == other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _defaults(factory: Callable[..., Any], num_positional: int = 0) -> dict[str, Any]:
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


def _to_tuple(value: Any) -> Any:
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return DESCRIPTION not in value and all(_is_plain(item) for item in value.values())
    return not isinstance(value, list) or all(_is_plain(item) for item in value)


def _describe(value: Any) -> str:
    """Gives the same text in every process: without addresses, in one order, whole."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__} of {sorted(map(_describe, value))}"
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        digest = hashlib.sha256(value.tobytes()).hexdigest()[:16]
        return f"{value.dtype}{list(value.shape)}, sha256 {digest}"
    try:
        # A function, compiled or not, and a class: libraries move these between their modules.
        if isinstance(name := getattr(value, "__qualname__", None), str):
            return name
        return _PLACES.sub("", repr(value))
    except Exception as error:  # a user's `__repr__`; a description is no reason to end a run
        return f"{type(value).__name__} ({type(error).__name__} in its __repr__)"
