"""A stop that all processes of a run make at the same step."""

import threading
from typing import NamedTuple

from aetheria.engine.stop import StopSignal
from aetheria.hardware.processes.process_group import ProcessGroup

_LOOK_SECONDS = 0.5
_JOIN_SECONDS = 10.0
_STOP, _POLLS = "stop", "polls"


class _Request(NamedTuple):
    """A request to stop; as JSON it is a list."""

    reason: str
    preempt: bool


class AgreedStopSignal(StopSignal):
    """A stop signal of several processes: all stop after the same step.

    A signal of the operating system may reach any process, or all, at any time. Between two looks
    at the shared store, a step costs nothing but a count:

    1. A thread of each process looks into the shared store twice a second. If its own process has a
       request, it puts it there.
    2. When it finds a request, it blocks `poll` in its process, puts the number of polls so far
       into the store, and reads the numbers of the others.
    3. All processes stop at the first poll that none of them has made yet.

    A request that does not preempt comes from a listener on process 0; `agree` broadcasts it.

    JAX's own service for this is not used: it handles SIGTERM only, and a run that ends for another
    reason in the meantime waits for it for minutes at exit (seen with jax 0.10.2).

    Args:
        group: the processes of the run.
    """

    def __init__(self, group: ProcessGroup):
        super().__init__()
        self._group = group
        self._own_request: _Request | None = None
        self._num_polls = 0
        self._stop_at: tuple[int, _Request] | None = None
        self._gate = threading.Lock()  # held while polls are counted, or must not be
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="aetheria-stop", daemon=True)

    def request(self, reason: str, *, preempt: bool = False) -> None:
        """Requests a stop; the first request counts."""
        # It may run in a signal handler, so it takes no lock: the interrupted code may hold it.
        self._own_request = self._own_request or _Request(reason, preempt)

    def agree(self) -> None:
        """Adopts a request of process 0 that does not preempt; all processes call it together."""
        if self._thread.ident is None and not self._closed.is_set():
            self._thread.start()
        own = self._own_request
        shared = self._group.broadcast(None if own is None or own.preempt else own)
        if shared is not None:
            self._adopt(_Request(*shared))

    def poll(self) -> bool:
        """Whether to stop now; all processes call it equally often."""
        with self._gate:
            self._num_polls += 1
            if self._stop_at is not None and self._num_polls >= self._stop_at[0]:
                self._adopt(self._stop_at[1])
        return self.requested

    def close(self) -> None:
        """Ends the thread, and puts the number of polls into the store.

        Another process may still have to agree on a stop, and needs this process's number for it.
        """
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)
        self._group.put(f"{_POLLS}/{self._group.index}", self._num_polls)

    def _adopt(self, request: _Request) -> None:
        if not self.requested:
            # `requested` last: another thread that sees it also sees the reason.
            self.reason, self.preempt, self.requested = request.reason, request.preempt, True

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            own = self._own_request
            if own is not None and own.preempt:
                self._group.put(_STOP, own)
            found = self._group.get(_STOP)
            if found:
                self._choose_poll(_Request(*found))
                return

    def _choose_poll(self, request: _Request) -> None:
        """Agrees with the other processes on the poll at which to stop."""
        with self._gate:
            self._group.put(f"{_POLLS}/{self._group.index}", self._num_polls)
            counts = [self._group.wait_for_key(f"{_POLLS}/{i}") for i in range(self._group.count)]
            self._stop_at = max(counts) + 1, request
