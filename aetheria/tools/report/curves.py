"""The curves of a run, read from what its loggers wrote, and thinned without losing an extreme.

Reads `metrics.jsonl`, or `metrics.csv` where there is no other. Knows no page.
"""

import contextlib
import csv
import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

_COUNTERS = frozenset(
    ("step", "micro_step", "epoch", "examples_seen", "split", "num_examples", "seconds")
)
# What all curves of a page hold together, in points: about 15 bytes each as JSON.
PAGE_POINTS = 500_000
# A bucket holds its first, lowest, highest and last point, one that is not finite, and the mean.
_BUCKET_POINTS = 6
_MAX_BUCKETS = 1000  # two for each pixel of a wide chart
CurveName: TypeAlias = tuple[str, str]  # the metric, the split
_Points: TypeAlias = "tuple[array[float], array[float]]"  # the steps, the values


@dataclass(frozen=True)
class Curve:
    """The logged values of one metric on one split, in the order of the steps.

    Attributes:
        steps: [num_points] f64.
        values: [num_points] f64; NaN: not finite.
    """

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Thinned:
    """What a page holds of a curve.

    Attributes:
        steps: of the points that are kept.
        values: theirs, exactly as logged; NaN: not finite.
        mean_steps: the middle of each bucket; empty: all points were kept.
        means: the mean of the finite values in each bucket, to be smoothed.
    """

    steps: np.ndarray
    values: np.ndarray
    mean_steps: np.ndarray = field(default_factory=lambda: np.zeros(0))
    means: np.ndarray = field(default_factory=lambda: np.zeros(0))


def read_curves(run_dir: Path) -> Mapping[CurveName, Curve]:
    """The curves of a run; none if no logger wrote its metrics. Damaged lines are left out."""
    found: dict[CurveName, _Points] = {}
    read = _read_json if (run_dir / "metrics.jsonl").is_file() else _read_csv
    with contextlib.suppress(OSError):  # what could be read is shown
        read(run_dir, found)
    return {name: _in_order(*points) for name, points in found.items()}


def thin(curve: Curve, num_buckets: int) -> Thinned:
    """Keeps, of each of `num_buckets` parts of equal length, the first, the lowest, the highest and
    the last point, and one that is not finite; a short curve is kept whole.

    >>> curve = Curve(np.arange(1000.0), np.where(np.arange(1000) == 617, 9.0, 0.0))
    >>> thinned = thin(curve, 10)
    >>> len(thinned.steps) < 50, thinned.values.max(), thinned.steps[thinned.values.argmax()]
    (True, np.float64(9.0), np.float64(617.0))
    """
    steps, values = curve.steps, curve.values
    if len(steps) <= num_buckets * (_BUCKET_POINTS - 1):
        return Thinned(steps, values)
    edges = np.linspace(0, len(steps), num_buckets + 1).astype(np.int64)
    kept: set[int] = set()
    mean_steps, means = np.empty(num_buckets), np.empty(num_buckets)
    for bucket in range(num_buckets):
        start, stop = int(edges[bucket]), int(edges[bucket + 1])
        part = values[start:stop]
        is_nan = np.isnan(part)
        kept |= {start, stop - 1}
        mean_steps[bucket] = (steps[start] + steps[stop - 1]) / 2
        if is_nan.any():
            kept.add(start + int(is_nan.argmax()))
        if is_nan.all():
            means[bucket] = math.nan
            continue
        kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
        means[bucket] = np.nanmean(part)
    index = np.array(sorted(kept))
    return Thinned(steps[index], values[index], mean_steps, means)


def buckets_for(num_curves: int) -> int:
    """Into how many buckets each of so many curves is thinned, so that the page stays small."""
    each = PAGE_POINTS // _BUCKET_POINTS // max(1, num_curves)
    return max(1, min(_MAX_BUCKETS, each))


def _read_json(run_dir: Path, found: dict[CurveName, _Points]) -> None:
    """Reads millions of lines, so that the inner loop calls as little as it can."""
    with (run_dir / "metrics.jsonl").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
                step, split = float(record["step"]), str(record.get("split", "train"))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
                continue  # a kill left this line half written
            if not math.isfinite(step):
                continue
            for name, value in record.items():
                if name in _COUNTERS:
                    continue
                if type(value) is not float:
                    if value is not None and type(value) is not int:
                        continue
                    value = _finite(value)
                elif not math.isfinite(value):
                    value = math.nan
                _add(found, (name, split), step, value)


def _read_csv(run_dir: Path, found: dict[CurveName, _Points]) -> None:
    file = run_dir / "metrics.csv"
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        for row in csv.reader(line.replace("\0", "") for line in lines):
            if len(row) != 6 or row[4] in _COUNTERS:
                continue
            try:
                step, value = float(row[0]), float(row[5])
            except ValueError:
                continue  # the header, or a line half written
            if math.isfinite(step):
                _add(found, (row[4], row[3]), step, _finite(value))


def _add(found: dict[CurveName, _Points], curve: CurveName, step: float, value: float) -> None:
    points = found.get(curve)
    if points is None:
        points = found[curve] = (array("d"), array("d"))
    points[0].append(step)
    points[1].append(value)


def _finite(value: float | None) -> float:
    """Turns null, an infinity, or an integer that no float holds, into NaN."""
    try:
        return float(value) if value is not None and math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def _in_order(steps: "array[float]", values: "array[float]") -> Curve:
    at, found = np.array(steps), np.array(values)
    if np.any(np.diff(at) < 0):  # two runs wrote into one file
        order = np.argsort(at, kind="stable")
        at, found = at[order], found[order]
    return Curve(at, found)
