"""Conditions on runs, such as `learning_rate<0.01`. Knows no command line."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aetheria.errors import shown

if TYPE_CHECKING:
    from aetheria.training.run_info import RunInfo

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([^<>=!\s]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_FIELDS = ("status", "step", "best", "note", "size_bytes")


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        key: a field of the list, a key of the config, dotted if nested, or a final metric.
        sign: one of = != < <= > >=.
        value: what to compare with.
    """

    key: str
    sign: str
    value: str

    def holds(self, run: "RunInfo") -> bool:
        """Whether a run meets it. A run without a value meets none but `!=`."""
        found = value_of(run, self.key)
        if found is None:
            return self.sign == "!=" or (self.sign == "=" and self.value == "null")
        left, right = _number(found), _number(self.value)
        if left is not None and right is not None:
            return _OPERATORS[self.sign](left, right)
        same = _text(found) == self.value
        return same if self.sign == "=" else not same if self.sign == "!=" else False


def read_condition(text: str) -> Condition:
    """Reads a condition.

    >>> read_condition("model_params.hidden_dim >= 32")
    Condition(key='model_params.hidden_dim', sign='>=', value='32')

    Raises:
        ValueError: it is none.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(
            "expected a condition such as epochs=3 or 'best<0.5' (with = != < <= > >=), got "
            f"{shown(text)}"
        )
    key, sign, value = match.groups()
    return Condition(key, "=" if sign == "==" else sign, value)


def value_of(run: "RunInfo", key: str) -> object:
    """A value of a run; None if it has none of that name."""
    if key in _FIELDS:
        return getattr(run, key)
    if key == "name":
        return str(run.path)
    for place in (run.config, run.config.get("resolved"), run.summary.get("final")):
        found = _inside(place, key)
        if found is not None:
            return found
    return None


def _inside(place: object, key: str) -> object:
    if not isinstance(place, Mapping):
        return None
    if key in place:
        return place[key]
    first, _, rest = key.partition(".")
    return _inside(place.get(first), rest) if rest else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _text(value: object) -> str:
    """A value as a config writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)
