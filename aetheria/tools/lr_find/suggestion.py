"""Chooses a learning rate from the losses at rising ones. Knows no framework."""

import math
from collections.abc import Sequence

_SMOOTHING = 0.9
_DIVERGED = 4.0  # times the smallest loss
_MIN_FALL = 0.02  # of the first loss; a smaller one is noise


def smooth(losses: Sequence[float]) -> list[float]:
    """An exponential moving average, corrected for its start.

    >>> [round(value, 3) for value in smooth([2.0, 2.0, 0.0])]
    [2.0, 2.0, 1.262]
    """
    smoothed, mean = [], 0.0
    for count, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smoothed.append(mean / (1 - _SMOOTHING**count))
    return smoothed


def has_diverged(smoothed: Sequence[float]) -> bool:
    """Whether the loss has grown to a multiple of its smallest value."""
    return smoothed[-1] > _DIVERGED * min(smoothed) > 0


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """The rate at which the loss falls fastest, by the logarithm of the rate; None: it does not
    fall.

    Args:
        rates: rising by a constant factor.
        smoothed: the loss at each.

    >>> rates = [10.0**k for k in range(-6, 1)]
    >>> suggest(rates, [2.0, 2.0, 1.9, 1.2, 1.0, 1.5, 4.0])
    0.001
    >>> suggest(rates, [2.0, 2.0, 2.0, 2.0, 2.1, 3.0, 9.0]) is None
    True
    """
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    if lowest < 2 or smoothed[0] - smoothed[lowest] < _MIN_FALL * abs(smoothed[0]):
        return None
    falls = {step: smoothed[step - 1] - smoothed[step] for step in range(1, lowest + 1)}
    return rates[max(falls, key=falls.__getitem__)]


def curve(rates: Sequence[float], smoothed: Sequence[float], rows: int = 20) -> list[list[str]]:
    """Rows of a table: rate, loss, and a bar as long as the loss is large, by its logarithm where
    it is positive.
    """
    chosen = sorted({round(i * (len(rates) - 1) / (rows - 1)) for i in range(rows)})
    heights = [math.log(each) if min(smoothed) > 0 else each for each in smoothed]
    low, span = min(heights), max(max(heights) - min(heights), 1e-12)
    return [
        [f"{rates[i]:.2e}", f"{smoothed[i]:.4f}", "#" * (1 + round(40 * (heights[i] - low) / span))]
        for i in chosen
    ]
