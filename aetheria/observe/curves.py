"""Curves of a run's metrics over its steps, drawn with matplotlib."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aetheria.errors import AetheriaError
from aetheria.observe.loggers.records import RATES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COUNTERS = {"step", "micro_step", "epoch", "examples_seen", "split", "num_examples"}
_HIDDEN = {*_COUNTERS, *RATES, "learning_rate", "num_nonfinite_examples"}  # unless asked for
_PANEL_INCHES = (4.5, 3.2)


def draw_curves(history: Sequence[dict[str, Any]], names: Sequence[str]) -> "Figure":
    """Draws a panel for each metric, with a curve for training and one for each evaluation split.

    Args:
        history: records with `step`, `split` and metrics.
        names: the metrics; none: all of them.

    Raises:
        AetheriaError: matplotlib is not installed, or there is no such metric.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AetheriaError(
            "plot: expected matplotlib, got none installed; pip install 'aetheria[plot]'"
        ) from error

    class Curves(Figure):
        def _repr_png_(self) -> bytes:  # a notebook shows it, whether pyplot is imported or not
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    known = list(dict.fromkeys(name for each in history for name in each if name not in _COUNTERS))
    for name in names:
        if name not in known:
            raise AetheriaError(
                f"plot: expected one of {', '.join(known) or 'no metric'}, got {name!r}; use one "
                "of these"
            )
    shown = list(names) or [name for name in known if name not in _HIDDEN]
    width, height = _PANEL_INCHES
    figure = Curves(figsize=(width * max(1, len(shown)), height), layout="constrained")
    for index, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), index + 1)
        for split in dict.fromkeys(["train", "eval", *(each["split"] for each in history)]):
            rows = [each for each in history if each["split"] == split and name in each]
            if rows:
                steps, values = ([row[key] for row in rows] for key in ("step", name))
                axes.plot(steps, values, "o" if len(rows) == 1 else "-", label=split)
        axes.set(xlabel="step", title=name)
        axes.legend()
    return figure
