"""The search space of a sweep: which keys of the config vary, and over which values. Knows no
Optuna.

```
learning_rate=log:1e-4:1e-1       a number whose logarithm is uniform
model_params.dropout=uniform:0:0.5
batch_size=int:16:128:16          a whole number, in steps of 16
model_params.num_layers=logint:1:16
model_params.hidden_dim=16,32,64  one of these
```
"""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from aetheria.config import Config, make_config
from aetheria.config.files import assign, read_values
from aetheria.config.parsing import parse_yaml
from aetheria.errors import ConfigError, shown

Scalar: TypeAlias = str | int | float | bool | None
_KINDS = {"uniform": (False, False), "log": (True, False), "int": (False, True)}
_KINDS["logint"] = (True, True)
_FORMS = "16,32,64 or uniform:0:0.5, log:1e-4:1e-1, int:1:8, logint:16:1024"
_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Choice:
    """One of some values, in no order."""

    values: tuple[Scalar, ...]

    def samples(self) -> tuple[Scalar, ...]:
        """The values that the config must accept."""
        return self.values

    def grid(self) -> Sequence[Scalar] | None:
        """Every value; None: there are too many."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number between two others, both included.

    Attributes:
        low: the smallest.
        high: the largest.
        log: whether its logarithm is uniform, rather than itself.
        whole: whether it is a whole number.
        step: the distance of neighbours; None: any number between, or 1 if it is whole.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float | None = None

    def samples(self) -> tuple[Scalar, ...]:
        """The values that the config must accept."""
        return self.low, self.high

    def grid(self) -> Sequence[Scalar] | None:
        """Every value; None: there are too many."""
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + number * step for number in range(count)] if count <= 1000 else None


Dimension: TypeAlias = Choice | Range
Space: TypeAlias = Mapping[str, Dimension]


def read_space(texts: Iterable[str]) -> tuple[dict[str, Dimension], dict[str, str]]:
    """Reads the `--space` options.

    Args:
        texts: `KEY=VALUES`, or the path of a YAML or JSON file with keys and values.

    Returns:
        The space, and the same as texts, in the order in which they are given.

    Raises:
        ConfigError: a text that is none of the forms; all problems at once.
    """
    problems: list[str] = []
    space: dict[str, Dimension] = {}
    written: dict[str, str] = {}
    for key, text in itertools.chain.from_iterable(map(_items, texts)):
        if key in space:
            problems.append(f"--space {key}: expected it once, got it again; remove one")
        try:
            space[key], written[key] = _dimension(text), text
        except ValueError as error:
            problems.append(f"--space {key}: {error}")
    if not space and not problems:
        problems.append(
            "--space: expected a key with its values, such as learning_rate=log:1e-4:1e-1, got "
            "none; add one"
        )
    if problems:
        raise ConfigError(*problems)
    return space, written


def check_space(space: Space, values: Mapping[str, object]) -> None:
    """Checks that the config accepts the keys, and each choice or both ends of each range.

    Args:
        space: what varies.
        values: of the config without the space.

    Raises:
        ConfigError: a line for each key.
    """
    problems = []
    for key, dimension in space.items():
        for value in dimension.samples():
            try:
                apply(values, {key: value})
            except ConfigError as error:
                problems += error.problems
                break
    if problems:
        raise ConfigError(*problems)


def apply(values: Mapping[str, object], point: Mapping[str, Scalar]) -> Config:
    """The config with the values of one point of the space.

    Raises:
        ConfigError: the config does not accept them.
    """
    changed = copy.deepcopy(dict(values))
    for key, value in point.items():
        assign(changed, key, value)
    return make_config(changed, "config", dict.fromkeys(point, "--space"))


def grid_of(space: Space) -> list[dict[str, Scalar]]:
    """Every point of a space.

    Raises:
        ConfigError: it has a range that is not a grid.
    """
    columns = {key: dimension.grid() for key, dimension in space.items()}
    for key, column in columns.items():
        if column is None:
            raise ConfigError(
                f"--space {key}: expected choices, or a range with a step, for --sampler=grid, got "
                "a range; name its values, or use another sampler"
            )
    found = [column or () for column in columns.values()]
    return [dict(zip(columns, point, strict=True)) for point in itertools.product(*found)]


def _items(text: str) -> Iterator[tuple[str, str]]:
    key, equals, rest = text.partition("=")
    if equals and key.strip():
        yield key.strip(), rest.strip()
    elif text.endswith(_FILES):
        for name, value in read_values(Path(text)).items():
            listed = isinstance(value, list)
            yield name, ",".join(map(_as_text, value)) if listed else _as_text(value)
    else:
        raise ConfigError(
            f"--space: expected KEY=VALUES or a file ending in {', '.join(_FILES)}, got "
            f"{shown(text)}; write a key with {_FORMS}"
        )


def _as_text(value: object) -> str:
    return "null" if value is None else str(value)


def _dimension(text: str) -> Dimension:
    """Raises ValueError, which says what was expected and what to do."""
    kind, colon, rest = text.partition(":")
    if colon and kind in _KINDS:
        return _range(text, rest.split(":"), *_KINDS[kind])
    if colon and all(_number(part) is not None for part in text.split(":")):
        raise ValueError(
            f"expected the kind of a range, got {shown(text)}; write uniform:{text}, log:{text}, "
            f"int:{text} or logint:{text}"
        )
    if colon and "," not in text:
        raise ValueError(f"expected {_FORMS}, got {shown(text)}; write one of these forms")
    return _choice(text)


def _range(text: str, parts: Sequence[str], log: bool, whole: bool) -> Range:
    numbers = [_number(part) for part in parts]
    if len(parts) not in (2, 3) or None in numbers:
        raise ValueError(
            f"expected KIND:LOW:HIGH or KIND:LOW:HIGH:STEP with numbers, got {shown(text)}; "
            "correct it"
        )
    low, high, *steps = [number for number in numbers if number is not None]
    if whole and any(number != int(number) for number in (low, high, *steps)):
        raise ValueError(
            f"expected whole numbers, got {shown(text)}; use uniform or log for others"
        )
    if low >= high:
        raise ValueError(f"expected LOW below HIGH, got {shown(text)}; exchange or change them")
    if log and low <= 0:
        raise ValueError(f"expected LOW above 0 for a logarithm, got {shown(text)}; raise it")
    if steps and log:
        raise ValueError(f"expected no STEP with a logarithm, got {shown(text)}; leave it out")
    if steps and not 0 < steps[0] <= high - low:
        raise ValueError(
            f"expected a STEP above 0 and at most HIGH - LOW, got {shown(text)}; change it"
        )
    if whole:
        low, high, steps = int(low), int(high), [int(step) for step in steps]
    return Range(low, high, log=log, whole=whole, step=steps[0] if steps else None)


def _choice(text: str) -> Choice:
    try:
        listed = parse_yaml(f"[{text}]")
    except ValueError as error:
        raise ValueError(f"expected values separated by commas, got {error}; quote it") from None
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"expected at least one value, got {shown(text)}; write {_FORMS}")
    values = tuple(map(_scalar, listed))
    if len(set(map(repr, values))) < len(values):
        raise ValueError(f"expected different values, got {shown(text)}; remove the repeated one")
    return Choice(values)


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(
        f"expected numbers, texts, true, false or null, got {shown(value)}; lists and keys cannot "
        "be searched"
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
