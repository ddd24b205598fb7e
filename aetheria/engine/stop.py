"""How a run is asked to stop."""

import threading


class StopSignal:
    """The one way to ask for a stop. Listeners and signal handlers ask; the engine decides.

    The first request wins. `preempt` says that the run is to be continued (exit 75), otherwise
    it is complete. Where there are several processes, they agree before `requested` is true.
    """

    def __init__(self) -> None:
        self.requested = False
        self.preempt = False
        self.reason = ""
        self._lock = threading.RLock()  # re-entrant: a signal may arrive inside a request

    def request(self, reason: str, *, preempt: bool = False) -> None:
        with self._lock:
            if not self.requested:
                self.reason, self.preempt, self.requested = reason, preempt, True

    def poll(self) -> bool:
        """Whether to stop after the steps just dispatched."""
        return self.requested

    def agree(self) -> None:
        """Called where listeners may just have asked, before anything depends on it."""

    def close(self) -> None:
        """The run is over: nobody is asked any more."""
