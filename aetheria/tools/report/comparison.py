"""Values of several runs side by side: configs, machines, versions. Knows no page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_MAX_CHARACTERS = 2000  # of one value


@dataclass(frozen=True)
class Row:
    """One key.

    Attributes:
        key: dotted, where it is nested.
        values: one text for each run; empty: this run has no such key.
    """

    key: str
    values: Sequence[str]

    @property
    def differs(self) -> bool:
        """Whether two runs have different values."""
        return len(set(self.values)) > 1


def compare(objects: Sequence[Mapping[str, object]]) -> list[Row]:
    """A row for each key of the objects, nested keys dotted, in their order.

    >>> compare([{"a": {"b": 1}}, {"a": {"b": 2}, "c": True}])
    [Row(key='a.b', values=['1', '2']), Row(key='c', values=['', 'true'])]
    """
    flat = [dict(_flatten(each)) for each in objects]
    keys = dict.fromkeys(key for each in flat for key in each)
    return [Row(key, [each.get(key, "") for each in flat]) for key in keys]


def _flatten(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item and name.count(".") < 20:
            yield from _flatten(item, f"{name}.")
        else:
            yield name, show(item)


def show(value: object) -> str:
    """A JSON value as text: `true`, `null`, `[1, 2]`, and a text without its quotes."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[:_MAX_CHARACTERS]}… ({len(text):,} characters)"
