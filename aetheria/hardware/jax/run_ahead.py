"""How far the host may be ahead of the devices. Steps are dispatched without waiting for them, and
whatever the host then wants to do next, such as to save and leave at a signal, comes after all of
them: jax takes 32 calls ahead on a CPU, of a minute together if a step takes two seconds.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax

_SECONDS = 1.0  # short against what schedulers give a job to leave: 30 seconds and more
_LEAST, _MOST = 2, 256  # calls: the device always has one to go on with; and reports are kept


def wait_for(report: Any) -> bool:
    """Returns when the devices have come to a report; whether they had not yet."""
    late = not all(leaf.is_ready() for leaf in jax.tree.leaves(report))
    jax.block_until_ready(report)
    return late


class RunAhead:
    """Waits for an old call where the newest would be more than about a second of work ahead.

    Args:
        wait: returns when the devices have come to a report, and whether they had not yet.
        clock: seconds.
    """

    def __init__(
        self,
        wait: Callable[[Any], bool] = wait_for,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._wait, self._clock = wait, clock
        self._calls: deque[Any] = deque()
        self._depth, self._came, self._late = _LEAST, clock(), False

    def follow(self, report: Any) -> None:
        """Takes note of the call just dispatched, by its report; waits if it is too far ahead."""
        self._calls.append(report)
        while len(self._calls) > self._depth:
            late = self._wait(self._calls.popleft())
            now = self._clock()
            if late and self._late:  # two were waited for: what lies between is what one takes
                fits = int(_SECONDS / max(now - self._came, 1e-9))
                # One more at a time: two that came at once by chance do not open the gates.
                self._depth = max(_LEAST, min(_MOST, fits, self._depth + 1))
            self._came, self._late = now, late
