"""What decides the trials of a sweep; the sweep goes on only with the same."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from aetheria.config.json_types import JsonObject
from aetheria.errors import AetheriaError, shown

_ADVICE = "name another --workdir for a new sweep, or give the same"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the trials of a sweep, beside their number.

    Attributes:
        config: the config's values, without those of the space.
        space: key -> its values, as they were written.
        metric: what is compared, such as `eval/loss`.
        mode: whether the smallest value is the best, or the largest.
        sampler: what chooses the values.
        pruner: what ends trials early.
        seeds: of the runs of each trial.
    """

    config: JsonObject
    space: Mapping[str, str]
    metric: str
    mode: Literal["min", "max"]
    sampler: str
    pruner: str
    seeds: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {**asdict(self), "seeds": list(self.seeds)}

    def check_same(self, there: Mapping[str, Any], folder: Path) -> None:
        """Raises AetheriaError, a line for each difference, if a sweep has other settings."""
        problems = []
        for name, mine in self.to_json().items():
            other = there.get(name)
            if name == "config":
                problems += _differences(folder, mine, other or {})
            elif mine != other:
                problems.append(
                    f"{folder}: expected the {name} of the sweep there, {shown(other)}, got "
                    f"{shown(mine)}; {_ADVICE}"
                )
        if problems:
            raise AetheriaError(*problems)


def _differences(folder: Path, mine: JsonObject, other: JsonObject) -> list[str]:
    return [
        f"{folder}: expected {key}={shown(other.get(key))} as in the sweep there, got "
        f"{shown(mine.get(key))}; {_ADVICE}"
        for key in {**mine, **other}
        if mine.get(key) != other.get(key)
    ]
