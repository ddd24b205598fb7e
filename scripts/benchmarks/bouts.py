"""Two kinds of steps in one process, in many short bouts, so that a drifting machine meets both."""

from collections.abc import Callable

_NUM_BOUTS = 40  # of each kind
_BOUT_SECONDS = 0.3

# Takes so many calls, waits for them, and returns the seconds.
Bout = Callable[[int], float]


def compare(one: Bout, other: Bout) -> list[float]:
    """The time of the one over that of the other; which begins changes from bout to bout."""
    num_calls = max(1, round(_BOUT_SECONDS / (other(5) / 5)))
    ratios = []
    for number in range(_NUM_BOUTS):
        if number % 2:
            top = one(num_calls)
            bottom = other(num_calls)
        else:
            bottom = other(num_calls)
            top = one(num_calls)
        ratios.append(top / bottom)
    return ratios
