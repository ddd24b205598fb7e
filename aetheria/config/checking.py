"""Checks values against the schema and reports all problems at once."""

import contextlib
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from aetheria.config.conversion import convert
from aetheria.config.precision_policy import parse_policy
from aetheria.config.schema import MODEL_KEYS, Config
from aetheria.errors import ConfigError, shown

_MAX_PROBLEMS = 20
_Origin = Callable[[str], str]  # dotted key -> what to call the place that set it


def make_config(
    values: Mapping[str, object],
    where: str,
    origins: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Checks `values` against the schema.

    Args:
        values: nested mappings, as read from a file, with the overrides applied.
        where: what to call their origin in errors, such as the file.
        origins: dotted key -> origin, for the keys that were set elsewhere.

    Raises:
        ConfigError: one line for each key that is unknown, missing, of the wrong type, out of
            range, or in conflict with another key.
    """
    problems: list[str] = []
    origin = functools.partial(_find_origin, where=where, origins=origins)
    checked = _check_fields(Config, values, origin, problems=problems)
    defaults = Config(model_name="").to_dict()
    valid = {
        name: checked.get(name, default)
        for name, default in defaults.items()
        if name in checked or name not in values
    }
    problems += _conflicts(valid, origin)
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"{where}: and {len(problems) - _MAX_PROBLEMS} more problems"]
    if problems:
        raise ConfigError(*problems)
    return Config(**checked)


def _find_origin(name: str, *, where: str, origins: Mapping[str, str]) -> str:
    """An override of `snapshot` also set `snapshot.mode`, and one of `mesh.data` set `mesh`."""
    for key, origin in origins.items():
        if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
            return origin
    return where


def _check_fields(
    schema: type, values: object, where: _Origin, *, prefix: str = "", problems: list[str]
) -> dict[str, Any]:
    """Converts the values of one level; appends to `problems` what is wrong with them."""
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".")
        problems.append(f"{where(name)}: {name}: expected keys with values, got {shown(values)}")
        return {}
    hints = typing.get_type_hints(schema, include_extras=True)
    checked = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints and len(problems) > _MAX_PROBLEMS:
            problems.append(name)  # counted, not printed
        elif key not in hints:
            from aetheria.config.suggestions import unknown_key

            names = [prefix + known for known in hints]
            problems.append(unknown_key(where(name), name, names, value))
        elif dataclasses.is_dataclass(hints[key]):
            inner = _check_fields(hints[key], value, where, prefix=f"{name}.", problems=problems)
            if not problems:
                checked[key] = hints[key](**inner)
        else:
            try:
                checked[key] = convert(value, hints[key])
            except (TypeError, ValueError) as error:
                from aetheria.config.suggestions import near_value

                near = near_value(name, value)
                problems.append(
                    f"{where(name)}: {name}: expected {error}, got {shown(value)}{near}"
                )
    for item in dataclasses.fields(schema):
        required = item.default is dataclasses.MISSING is item.default_factory
        if required and item.name not in values:
            name = f"{prefix}{item.name}"
            problems.append(f"{where(name)}: {name}: expected a value, got none; add it")
    return checked


def _conflicts(values: Mapping[str, Any], where: _Origin) -> Iterator[str]:
    """Compares keys that are valid by themselves with each other."""
    yield from _batch_size_conflicts(values, where)
    if values.get("strategy") == "torch" and values.get("reproducibility") == "elastic":
        yield (
            f"{where('strategy')}: strategy: expected a strategy other than 'torch' with "
            "reproducibility elastic, which needs JAX, got 'torch'; use reproducibility fast "
            "with it"
        )
    if values.get("spot_check_every") and values.get("reproducibility") != "elastic":
        yield (
            f"{where('spot_check_every')}: spot_check_every: expected 0 without reproducibility "
            f"elastic, with which alone all devices give the same bits, got "
            f"{values['spot_check_every']}; use elastic, or leave it out"
        )
    try:
        parse_policy(values.get("mixed_precision", False))
    except ValueError as error:
        yield f"{where('mixed_precision')}: mixed_precision: {error}"
    for name in MODEL_KEYS:
        short, own = values.get(name), values.get("model_params", {}).get(name)
        with contextlib.suppress(TypeError, ValueError):
            own = convert(own, float)
        if short is not None and own is not None and short != own:
            yield (
                f"{where(name)}: {name}: expected one value, got {short} here and {own} in "
                "model_params; keep one"
            )


def _batch_size_conflicts(values: Mapping[str, Any], where: _Origin) -> Iterator[str]:
    batch_size, accumulation = values.get("batch_size"), values.get("grad_accumulation_steps")
    if batch_size and accumulation and batch_size % accumulation:
        below = batch_size // accumulation * accumulation
        use = f"{below} or {below + accumulation}" if below else f"{accumulation}"
        yield (
            f"{where('batch_size')}: batch_size: expected a multiple of grad_accumulation_steps "
            f"({accumulation}), got {batch_size}; use {use}"
        )
    lanes = values.get("lanes")
    if values.get("reproducibility") != "elastic" or not lanes or not batch_size:
        return
    if lanes & (lanes - 1):
        below = 1 << (lanes.bit_length() - 1)
        yield (
            f"{where('lanes')}: lanes: expected a power of two, got {lanes}; "
            f"use {below} or {2 * below}"
        )
    elif batch_size % lanes:
        yield (
            f"{where('batch_size')}: batch_size: expected a multiple of lanes ({lanes}) with "
            f"reproducibility elastic, got {batch_size}; change one of them"
        )
