"""Evaluation splits that a dataset's arguments name: one, or several by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aetheria.data.forms import is_table
from aetheria.data.sources import Source


def read_each(
    given: Any, where: str, read: Callable[[Any, str], Source]
) -> Source | dict[str, Source]:
    """Reads an evaluation split, or several of them given by name.

    Args:
        given: what `read` takes, or a mapping of names to such values: files, tables or mappings,
            so that it is no mapping of columns.
        where: the name of the parameter.
        read: reads one split; its second argument is what messages call it.
    """
    if not isinstance(given, Mapping) or not all(map(_is_set, given.values())):
        return read(given, where)
    return {name: read(value, f"{where}.{name}") for name, value in given.items()}


def _is_set(value: Any) -> bool:
    return isinstance(value, str | Path | Mapping) or is_table(value)
