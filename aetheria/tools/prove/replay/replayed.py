"""What came of one interval, as the process that replays it answers and the other one reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aetheria.tools.prove.replay.differences import Difference
from aetheria.tools.prove.replay.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What came of one interval.

    Attributes:
        interval: its steps and snapshots.
        num_leaves: the leaves that were compared.
        num_lines: the metric lines of the run that were compared.
        num_examples: the examples whose ids were compared.
        examples_sha256: of their ids, as i64 in the order of training; empty: there are none.
        differences: those of metric lines first, then of examples, leaves and record.
        seconds: how long it took.
    """

    interval: Interval
    num_leaves: int = 0
    num_lines: int = 0
    num_examples: int = 0
    examples_sha256: str = ""
    differences: Sequence[Difference] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Replayed":
        differences = [Difference(**each) for each in value["differences"]]
        interval = read_interval(value["interval"])
        return cls(**{**value, "interval": interval, "differences": differences})


def read_interval(value: Mapping[str, Any]) -> Interval:
    """Reads an interval from JSON values."""
    start = None if value["start"] is None else Path(value["start"])
    return Interval(**{**value, "start": start, "end": Path(value["end"])})


def plain(value: Any) -> dict[str, Any]:
    """The JSON values of a dataclass, paths as texts."""
    return json.loads(json.dumps(asdict(value), default=str))
