"""The curves of a page: a chart for each metric, with a table that says the same in numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aetheria.observe.loggers.records import RATES, is_cell
from aetheria.tools.report.curves import Curve, CurveName, Thinned, buckets_for, thin
from aetheria.tools.report.markup import Safe, details, join, swatch, table, tag

_DASHES = {"train": "", "eval": "8 4", "test": "2 4"}
_OTHER_DASHES = ("10 3 2 3", "4 3", "12 4", "6 2 2 2 2 2")
_TABLE_STEPS = 12
_MAX_COLUMNS = 8


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        run: the index of its run.
        split: the split.
        dash: the dashes of its line, which stand for the split.
        curve: the logged values.
    """

    run: int
    split: str
    dash: str
    curve: Curve


def draw_charts(runs: Sequence[tuple[str, Mapping[CurveName, Curve]]]) -> tuple[Safe, object]:
    """The charts of all metrics.

    Args:
        runs: name and curves of each run.

    Returns:
        The markup, and the values that `report.js` draws.
    """
    lines = _lines(runs)
    num_buckets = buckets_for(sum(map(len, lines.values())))
    names = [name for name, _ in runs]
    groups = {
        "Training and evaluation": [n for n in lines if n not in RATES and not _is_of_layer(n)],
        "Layers": [n for n in lines if _is_of_layer(n)],
        "Speed and memory": [n for n in lines if n in RATES],
    }
    parts, values = [], []
    for title, metrics in groups.items():
        if not metrics:
            continue
        figures = []
        for metric in sorted(metrics, key=lambda n: n != "loss"):
            figures.append(_figure(len(values), metric, lines[metric], names))
            values.append([_values(line, num_buckets) for line in lines[metric]])
        parts += [tag("h3", title), tag("div", *figures, class_="charts")]
    return join(parts), {"charts": values}


def _lines(runs: Sequence[tuple[str, Mapping[CurveName, Curve]]]) -> dict[str, list[Line]]:
    splits = dict.fromkeys(split for _, curves in runs for _, split in curves)
    others = [split for split in splits if split not in _DASHES]
    dashes = _DASHES | {s: _OTHER_DASHES[i % len(_OTHER_DASHES)] for i, s in enumerate(others)}
    found: dict[str, list[Line]] = {}
    for index, (_, curves) in enumerate(runs):
        for (metric, split), curve in curves.items():
            if is_cell(metric):
                continue  # the confusion matrix is a table
            found.setdefault(metric, []).append(Line(index, split, dashes[split], curve))
    return found


def _is_of_layer(metric: str) -> bool:
    return metric.startswith("layers/")


def _figure(number: int, metric: str, lines: Sequence[Line], names: Sequence[str]) -> Safe:
    labels = [f"{names[line.run]}, {line.split}" for line in lines]
    said = "; ".join(map(_sentence, labels[:_MAX_COLUMNS], lines))
    legend = [
        tag(
            "li",
            swatch(line.run, line.dash),
            f" {label} ",
            tag("span", class_="value"),
        )
        for label, line in zip(labels, lines, strict=True)
    ]
    return tag(
        "figure",
        tag("figcaption", tag("h4", metric, id=f"metric-{number}")),
        tag(
            "div",
            class_="plot",
            role="img",
            aria_label=f"Curves of {metric} over steps, with a table below. {said}",
        ),
        tag("ul", *legend, class_="legend", aria_label=f"Curves of {metric}"),
        details(
            f"{metric} in numbers", _summary(metric, labels, lines), _steps(metric, labels, lines)
        ),
    )


def _sentence(label: str, line: Line) -> str:
    finite = line.curve.values[np.isfinite(line.curve.values)]
    if not len(finite):
        return f"{label}: no finite value"
    ends = f"from {number(finite[0])} to {number(finite[-1])}"
    return f"{label}: {ends}, lowest {number(finite.min())}, highest {number(finite.max())}"


def _summary(metric: str, labels: Sequence[str], lines: Sequence[Line]) -> Safe:
    headers = ("curve", "points", "not finite", "first", "last", "lowest", "highest")
    rows = [(label, *_cells(line.curve)) for label, line in zip(labels, lines, strict=True)]
    return table(f"{metric}: each curve", headers, rows)


def _cells(curve: Curve) -> tuple[str, ...]:
    is_finite = np.isfinite(curve.values)
    steps, values = curve.steps[is_finite], curve.values[is_finite]
    counts = (f"{len(curve.values):,}", f"{len(curve.values) - len(values):,}")
    if not len(values):
        return (*counts, "", "", "", "")
    low, high = int(values.argmin()), int(values.argmax())
    return (
        *counts,
        number(values[0]),
        number(values[-1]),
        *(f"{number(values[i])} (step {steps[i]:.0f})" for i in (low, high)),
    )


def _steps(metric: str, labels: Sequence[str], lines: Sequence[Line]) -> Safe:
    """A dozen steps and the value of each curve there, or the last one before."""
    if len(lines) > _MAX_COLUMNS:
        return Safe("")
    every = np.unique(np.concatenate([line.curve.steps for line in lines]))
    chosen = every[np.unique(np.linspace(0, len(every) - 1, _TABLE_STEPS).astype(int))]
    rows = [(f"{step:.0f}", *(_value_at(line.curve, step) for line in lines)) for step in chosen]
    return table(f"{metric}: some steps", ("step", *labels), rows)


def _value_at(curve: Curve, step: float) -> str:
    index = int(np.searchsorted(curve.steps, step, side="right")) - 1
    return "" if index < 0 else number(curve.values[index])


def _values(line: Line, num_buckets: int) -> dict[str, object]:
    thinned: Thinned = thin(line.curve, num_buckets)
    found: dict[str, object] = {
        "run": line.run,
        "dash": [int(part) for part in line.dash.split()],
        "x": _steps_json(thinned.steps),
        "y": _values_json(thinned.values),
    }
    if len(thinned.means):
        found |= {"mx": _steps_json(thinned.mean_steps), "my": _values_json(thinned.means)}
    return found


def _steps_json(steps: np.ndarray) -> list[float]:
    return [int(step) if step == int(step) else step for step in steps.tolist()]


def _values_json(values: np.ndarray) -> list[float | None]:
    """Nine digits hold a float32 exactly."""
    return [None if math.isnan(v) else float(f"{v:.9g}") for v in values.tolist()]


def number(value: float) -> str:
    """A number as a reader compares it."""
    return "not finite" if math.isnan(value) else f"{value:.5g}"
