"""Columns that are mappings: `{"inputs": {"image": …, "text": …}}` is stored, read and split as the
columns `inputs/image` and `inputs/text`; a model is given the mapping again.
"""

from collections.abc import Mapping
from typing import TypeVar

Column = TypeVar("Column")


def flat_columns(columns: Mapping[str, Column]) -> Mapping[str, Column]:
    """Names every column of nested mappings by its path.

    >>> flat_columns({"inputs": {"image": 1, "text": 2}, "labels": 3})
    {'inputs/image': 1, 'inputs/text': 2, 'labels': 3}
    """
    if not any(isinstance(column, Mapping) for column in columns.values()):
        return columns
    flat = {}
    for name, column in columns.items():
        inner = flat_columns(column) if isinstance(column, Mapping) else None
        flat |= {name: column} if inner is None else {f"{name}/{n}": c for n, c in inner.items()}
    return flat


def nested_columns(columns: Mapping[str, Column]) -> Mapping[str, Column]:
    """The inverse of `flat_columns`.

    >>> nested_columns({"inputs/image": 1, "inputs/text": 2, "labels": 3})
    {'inputs': {'image': 1, 'text': 2}, 'labels': 3}
    """
    if not any("/" in name for name in columns):
        return columns
    nested = {}
    for path, column in columns.items():
        *outer, name = path.split("/")
        place = nested
        for step in outer:
            place = place.setdefault(step, {})
        place[name] = column
    return nested
