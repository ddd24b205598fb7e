"""Calls a class or function with arguments from a config, after checking that they fit it."""

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from aetheria.config.conversion import convert
from aetheria.errors import ConfigError, shown

Made = TypeVar("Made")
_CONVERTED = (bool, int, float, str)  # the types of parameters whose arguments are converted


def call_with(
    factory: Callable[..., Made],
    where: str,
    arguments: Mapping[str, object],
    *,
    own_keys: Mapping[str, str] = MappingProxyType({}),
) -> Made:
    """Calls `factory(**arguments)`; see `prepare_call`."""
    return prepare_call(factory, where, arguments, own_keys=own_keys)()


def prepare_call(
    factory: Callable[..., Made],
    where: str,
    arguments: Mapping[str, object],
    positional: str = "",
    *,
    own_keys: Mapping[str, str] = MappingProxyType({}),
) -> functools.partial[Made]:
    """Checks that `factory(**arguments)` can be called, without calling it.

    Numbers and texts are converted to the types of the annotations.

    Args:
        factory: a class or a function.
        where: the name of the arguments in errors, such as `model_params`.
        arguments: argument name -> value.
        positional: the name of a positional argument that comes first; empty: there is none.
        own_keys: argument name -> how a model uses it, for those arguments that are keys of their
            own in the config.

    Returns:
        The factory with its arguments, to be called with the positional argument only.

    Raises:
        ConfigError: an argument is unknown, missing, or of another type, or `factory` cannot be
            called in this way.
    """
    parameters = _parameters(factory, where)
    if positional:
        _check_positional(parameters, where, positional)
    accepted = [
        name
        for name, parameter in list(parameters.items())[1 if positional else 0 :]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    problems, converted = [], {}
    hints = _hints(factory)
    for name, value in arguments.items():
        if name not in accepted and not takes_any:
            problems.append(
                _no_such_hyperparameter(name, factory, own_keys[name])
                if name in own_keys
                else _unknown(where, name, accepted)
            )
            continue
        try:
            converted[name] = _convert(value, hints.get(name))
        except (TypeError, ValueError) as error:
            problems.append(f"{where}.{name}: expected {error}, got {shown(value)}; change it")
    missing = [
        name
        for name in accepted
        if parameters[name].default is inspect.Parameter.empty and name not in arguments
    ]
    problems += [f"{where}.{name}: expected a value, got none; add it" for name in missing]
    if problems:
        raise ConfigError(*problems)
    return functools.partial(factory, **converted)


def _check_positional(
    parameters: Mapping[str, inspect.Parameter], where: str, positional: str
) -> None:
    first = next(iter(parameters.values()), None)
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        raise ConfigError(
            f"{where}: expected something that takes a {positional} first, got one that takes "
            f"{', '.join(parameters) or 'nothing'}; add the argument {positional}"
        )


def _parameters(factory: Callable[..., object], where: str) -> Mapping[str, inspect.Parameter]:
    name = getattr(factory, "__name__", repr(factory))
    if inspect.isabstract(factory):
        missing = ", ".join(sorted(getattr(factory, "__abstractmethods__", ())))
        raise ConfigError(f"{where}: expected a complete class, got {name} without {missing}")
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: expected a class or function to call, got {name}") from error


def _unknown(where: str, name: str, accepted: list[str]) -> str:
    near = difflib.get_close_matches(name[:60], accepted, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]!r}?" if near else "use one of these, or remove it"
    if not accepted:
        return f"{where}: expected no arguments, got {shown(name)}; remove it"
    shown_name = shown(name)
    return (
        f"{where}.{shown_name[1:-1]}: expected one of {', '.join(accepted)}, got {shown_name}; "
        f"{hint}"
    )


def _no_such_hyperparameter(name: str, factory: object, use: str) -> str:
    return (
        f"{name}: expected a model with a hyperparameter {name}, got "
        f"{getattr(factory, '__name__', factory)} without; add the field to it and use it, {use}, "
        "or remove the key"
    )


def _hints(factory: Callable[..., object]) -> Mapping[str, Any]:
    target = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):  # some annotations can be resolved by a type checker only
        return {}


def _convert(value: object, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, list) and (hint is tuple or origin is tuple):
        return tuple(value)  # a file has lists only, but the fields of a model must be hashable
    is_choice = origin is typing.Literal and all(isinstance(a, str) for a in arguments)
    members = [a for a in arguments if a is not type(None)]
    is_optional = origin in (types.UnionType, typing.Union) and len(members) == 1
    if hint in _CONVERTED or is_choice or (is_optional and members[0] in _CONVERTED):
        return convert(value, hint)
    return value
