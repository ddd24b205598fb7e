"""Compares the metric lines of two runs bit for bit: the first step at which they part. Speeds are
left out, since no two runs share them. Knows files alone.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aetheria.observe.loggers.records import RATES

_COUNTERS = ("micro_step", "epoch", "examples_seen", "num_examples")
Value = float | int | str | None
Key = tuple[int, str]  # step, split


@dataclass(frozen=True, kw_only=True)
class Line:
    """What was logged of a split at a step.

    Attributes:
        values: by name, in their order, counters last; None: not finite.
        previous: the step of the line of this split before it, since a line of training holds means
            over the steps in between; 0: there is none.
    """

    values: Mapping[str, Value]
    previous: int


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first step at which two runs logged different values.

    Attributes:
        step: the step.
        split: the split of the first value that differs.
        names: what differs there; the first one first.
        a: the values of A, by name.
        b: the values of B.
    """

    step: int
    split: str
    names: Sequence[str]
    a: Mapping[str, Value]
    b: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class MetricComparison:
    """The metric lines of two runs.

    Attributes:
        equal: the step of each line that was found equal, up to the parting.
        parting: None: every line is equal.
        missing: which runs have no metric lines.
        other_cadence: whether lines of training were left out, since these are means over other
            steps.
        last: the last step of any line, of A and of B.
    """

    equal: Sequence[int]
    parting: Parting | None
    missing: Sequence[str]
    other_cadence: bool
    last: tuple[int, int]

    @property
    def last_equal(self) -> int | None:
        """The last step before the parting, or of all, whose lines are equal; None: none is."""
        parting = self.parting
        return max((s for s in self.equal if parting is None or s < parting.step), default=None)

    @property
    def same_state(self) -> int:
        """The last step whose state gave both the same loss and gradient: a line of training
        depends on the state before its step; 0: none is known.
        """
        parting = self.parting
        if parting is not None and not {"loss", "grad_norm"} & set(parting.names):
            return parting.step - 1 if parting.split == "train" else self.last_equal or 0
        return max(0, (self.last_equal or 0) - 1)


def compare_metrics(a: Mapping[Key, Line], b: Mapping[Key, Line]) -> MetricComparison:
    """Compares the lines that both runs have, in the order of the steps."""
    parting, other_cadence = None, False
    equal: list[int] = []
    for key in sorted((key for key in a if key in b), key=lambda key: key[0]):
        step, split = key
        mine, others = a[key], b[key]
        if split == "train" and mine.previous != others.previous:
            other_cadence = True
            continue
        if names := _differing(mine.values, others.values):
            parting = Parting(step=step, split=split, names=names, a=mine.values, b=others.values)
            break
        equal.append(step)
    return MetricComparison(
        equal=equal,
        parting=parting,
        missing=[name for name, lines in (("A", a), ("B", b)) if not lines],
        other_cadence=other_cadence,
        last=(_last_step(a), _last_step(b)),
    )


def _last_step(lines: Mapping[Key, Line]) -> int:
    return max((step for step, _ in lines), default=0)


def _differing(a: Mapping[str, Value], b: Mapping[str, Value]) -> list[str]:
    """The names in both whose values differ. Floats are written so that they are read exactly."""
    return [name for name in a if name in b and not _is_same(a[name], b[name])]


def _is_same(a: Value, b: Value) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)  # 0.0 and -0.0
    return a == b


def read_metric_lines(run_dir: Path) -> dict[Key, Line]:
    """The lines of `metrics.jsonl`, or where there is none those of `metrics.csv`; empty without
    both. Lines that are damaged or half written are left out.
    """
    read = _read_json if (run_dir / "metrics.jsonl").is_file() else _read_csv
    found: dict[Key, dict[str, Value]] = {}
    for key, name, value in read(run_dir):
        found.setdefault(key, {})[name] = value
    lines: dict[Key, Line] = {}
    before: dict[str, int] = {}
    for step, split in sorted(found, key=lambda key: key[0]):
        values = found[step, split]
        ordered = sorted(values, key=lambda name: name in _COUNTERS)
        lines[step, split] = Line(
            values={name: values[name] for name in ordered}, previous=before.get(split, 0)
        )
        before[split] = step
    return lines


def _read_json(run_dir: Path) -> Iterator[tuple[Key, str, Value]]:
    with (run_dir / "metrics.jsonl").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
                key = (int(record.pop("step")), str(record.pop("split", "train")))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            for name, value in record.items():
                if name not in RATES and isinstance(value, int | float | str | None):
                    yield key, name, value


def _read_csv(run_dir: Path) -> Iterator[tuple[Key, str, Value]]:
    file = run_dir / "metrics.csv"
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        for row in csv.reader(line.replace("\0", "") for line in lines):
            try:
                step, epoch, examples_seen, split, name, value = row
                key, number = (int(step), split), float(value)
                counters = {"epoch": int(epoch), "examples_seen": int(examples_seen)}
            except ValueError:
                continue  # the header, or a line half written
            yield key, name, number if math.isfinite(number) else None
            for counter, count in counters.items():
                yield key, counter, count
