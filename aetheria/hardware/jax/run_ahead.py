"""How far the host may be ahead of the devices. Knows nothing of a step but its report.

Steps are dispatched without waiting for them, and whatever the host wants to do next, such as to
save and exit at a signal, comes after all of them: JAX accepts 32 calls ahead on a CPU, which is a
minute if a step takes two seconds.
"""

import operator
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import jax

from aetheria.hardware.layout.trees import Tree

Report = TypeVar("Report")

_SECONDS = 1.0  # short compared with what schedulers give a job to exit: 30 seconds and more
_LEAST, _MOST = 2, 256  # calls: the device always has one to continue with; and reports are kept
_is_ready = operator.methodcaller("is_ready")


def wait_for(report: Tree) -> bool:
    """Waits until the devices have computed a report; returns whether they had not yet."""
    late = not all(map(_is_ready, jax.tree.leaves(report)))
    jax.block_until_ready(report)
    return late


class RunAhead(Generic[Report]):
    """Waits for an old call where the newest would be more than about a second of work ahead.

    Args:
        wait: waits until the devices have computed a report; returns whether they had not yet.
        clock: seconds.
    """

    def __init__(
        self,
        wait: Callable[[Report], bool] = wait_for,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._wait, self._clock = wait, clock
        self._calls: deque[Report] = deque()
        self._depth, self._came, self._late = _LEAST, clock(), False

    def follow(self, report: Report) -> None:
        """Notes the call just dispatched, by its report; waits if it is too far ahead."""
        self._calls.append(report)
        while len(self._calls) > self._depth:
            late = self._wait(self._calls.popleft())
            now = self._clock()
            if late and self._late:  # two were waited for: the time between is that of one call
                fits = int(_SECONDS / max(now - self._came, 1e-9))
                # One more at a time: two that came at once by chance change little.
                self._depth = max(_LEAST, min(_MOST, fits, self._depth + 1))
            self._came, self._late = now, late
