"""A stop that all processes of a run make at the same step."""

import threading
from typing import Any

from aetheria.engine.stop import StopSignal
from aetheria.hardware.processes.process_group import ProcessGroup

_LOOK_SECONDS = 0.5
_LEAVE_SECONDS = 10.0
_STOP, _POLLS = "stop", "polls"


class SharedStopSignal(StopSignal):
    """A signal may reach any process, or all, at any time; between two looks at the group's board a
    step costs nothing but a count.

    A thread of each process looks there twice a second, and puts up what its own process was asked.
    Where it finds a request it holds back its process before the next steps, puts up how many times
    that has polled, and reads what the others put up: all stop at the first poll that none of them
    has made yet. (jax's own service for this is off: it takes SIGTERM alone, and a run that ends
    for another reason meanwhile waits minutes for it at exit; seen with jax 0.10.2.)

    A request that does not preempt, a listener's on process 0, is shared at the next report.
    """

    def __init__(self, group: ProcessGroup):
        super().__init__()
        self._group = group
        self._wish: list[Any] | None = None
        self._num_polls = 0
        self._stop_at: tuple[int, list[Any]] | None = None
        self._gate = threading.Lock()  # held by who counts polls, or must not have them counted
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="aetheria-stop", daemon=True)

    def request(self, reason: str, *, preempt: bool = False) -> None:
        # From a signal handler, too: it may take no lock that the code it interrupts could hold.
        self._wish = self._wish or [reason, preempt]

    def agree(self) -> None:
        """Takes over what process 0 wishes."""
        if self._thread.ident is None and not self._closed.is_set():
            self._thread.start()
        mine = self._wish
        self._settle(self._group.broadcast(None if mine is None or mine[1] else mine))

    def poll(self) -> bool:
        """Whether the stop is now; called by all processes equally often."""
        with self._gate:
            self._num_polls += 1
            if self._stop_at is not None and self._num_polls >= self._stop_at[0]:
                self._settle(self._stop_at[1])
        return self.requested

    def close(self) -> None:
        """The run is over. Who has yet to agree with this process learns how far it came."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVE_SECONDS)
        self._group.put(f"{_POLLS}/{self._group.index}", self._num_polls)

    def _settle(self, wish: list[Any] | None) -> None:
        if wish is not None and not self.requested:
            self.reason, self.preempt, self.requested = *wish, True

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            wish = self._wish
            if wish is not None and wish[1]:
                self._group.put(_STOP, wish)
            if found := self._group.get(_STOP):
                self._find_poll(found)
                return

    def _find_poll(self, wish: list[Any]) -> None:
        with self._gate:
            self._group.put(f"{_POLLS}/{self._group.index}", self._num_polls)
            counts = [self._group.wait_for_key(f"{_POLLS}/{i}") for i in range(self._group.count)]
            self._stop_at = max(counts) + 1, wish
