"""Limits the number of values in a config, which may come from anybody."""

from collections.abc import Mapping

from aetheria.errors import ConfigError, shown

_MAX_VALUES = 50_000


def check_size(values: object, where: str) -> None:
    """Checks the values of a config before anything copies or prints them.

    Raises:
        ConfigError: a value contains itself, a text cannot be encoded, or there are too many
            values. Values that YAML aliases repeat count each time: aliases of aliases multiply.
    """
    try:
        count = _count(values, {})
    except RecursionError:
        raise ConfigError(
            f"{where}: expected values, got one that contains itself or is nested too deeply; "
            "write it out"
        ) from None
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where}: expected text, got {shown(error.object)}, which contains half of a "
            "surrogate pair; remove it"
        ) from None
    if count > _MAX_VALUES:
        raise ConfigError(
            f"{where}: expected at most {_MAX_VALUES} values, got {shown(count)}; store data in "
            "separate files and name these"
        )


def _count(value: object, counts: dict[int, int]) -> int:
    """Counts a value and everything in it.

    `counts` (id -> number of values) holds the containers that were counted before, so that one
    with many aliases is walked once.
    """
    if isinstance(value, str):
        value.encode()
        return 1
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple)):
        parts = value
    else:
        return 1
    if id(value) not in counts:
        counts[id(value)] = 1 + sum(_count(part, counts) for part in parts)
    return counts[id(value)]
