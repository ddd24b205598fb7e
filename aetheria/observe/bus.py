"""Delivers events to listeners, and keeps a broken listener from breaking the run."""

import sys
import traceback
from collections.abc import Mapping
from typing import Any

from aetheria.events import Event, PhaseChanged, RunStarted
from aetheria.protocols import Listener


class EventBus:
    """Observer: calls every listener in turn, in the order of the config.

    A listener that raises before the first step fails the run: a wrong logger setting should be
    known at once. Later it is detached with one traceback on stderr, and the run goes on.
    """

    def __init__(self, listeners: Mapping[str, Listener]):
        self._listeners = dict(listeners)
        self._under_way = False

    def emit(self, event: Event) -> None:
        """Delivers `event` to every listener still attached."""
        self._under_way = self._under_way or not isinstance(event, (RunStarted, PhaseChanged))
        for name, listener in list(self._listeners.items()):
            try:
                listener.notify(event)
            except Exception:
                if not self._under_way:
                    raise
                self._detach(name)

    def export_state(self) -> dict[str, Any]:
        """Collects the listeners' states, JSON values; a listener flushes what it holds."""
        states = {}
        for name, listener in list(self._listeners.items()):
            export = getattr(listener, "export_state", None)
            if export is None:
                continue
            try:
                states[name] = export()
            except Exception:
                self._detach(name)
        return states

    def import_state(self, states: Mapping[str, Any]) -> None:
        """Gives every listener its state back; one that is new to the run starts afresh."""
        for name, listener in self._listeners.items():
            restore = getattr(listener, "import_state", None)
            if restore is not None and name in states:
                restore(states[name])

    def _detach(self, name: str) -> None:
        del self._listeners[name]
        print(f"listener {name!r} raised and was detached; the run goes on", file=sys.stderr)
        traceback.print_exc()
