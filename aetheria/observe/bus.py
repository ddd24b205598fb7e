"""Delivers events to listeners, and keeps a broken listener from breaking the run."""

import json
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from aetheria.errors import AetheriaError
from aetheria.events import Event, PhaseChanged, RunStarted
from aetheria.observe.listener import Listener
from aetheria.plugins.user_code import describe


class EventBus:
    """Observer: calls every listener in turn, in the order of the config.

    A listener that raises before the first step fails the run: a wrong logger setting should be
    known at once. Later it is detached with what it raised on stderr, and the run goes on. Either
    way it is called no more, so that the others hear how the run ends.
    """

    def __init__(self, listeners: Mapping[str, Listener]):
        self._listeners = dict(listeners)
        self._detached: dict[str, str] = {}
        self._under_way = False

    @property
    def detached(self) -> Mapping[str, str]:
        """The listeners that were detached, by name: the line of the error."""
        return dict(self._detached)

    def attach(self, listeners: Mapping[str, Listener]) -> None:
        """Adds listeners, after those it has."""
        self._listeners.update(listeners)

    def emit(self, event: Event) -> None:
        """Delivers `event` to every listener still attached."""
        self._under_way = self._under_way or not _precedes_first_step(event)
        for name, listener in list(self._listeners.items()):
            try:
                listener.notify(event)
            except Exception as error:
                if not self._under_way:
                    del self._listeners[name]
                    raise
                self._detach(name, error)

    def export_state(self) -> dict[str, Any]:
        """Collects the listeners' states, JSON values; a listener flushes what it holds."""
        states = {}
        for name, listener in list(self._listeners.items()):
            export = getattr(listener, "export_state", None)
            if export is None:
                continue
            try:
                states[name] = _copied(export())
            except Exception as error:
                self._detach(name, error)
        return states

    def import_state(self, states: Mapping[str, Any]) -> None:
        """Gives every listener its state back; one that is new to the run starts afresh."""
        for name, listener in self._listeners.items():
            restore = getattr(listener, "import_state", None)
            if restore is not None and name in states:
                restore(states[name])

    def _detach(self, name: str, error: Exception) -> None:
        del self._listeners[name]
        self._detached[name] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(f"listener {name!r} raised and was detached; the run goes on", file=sys.stderr)
        if isinstance(error, AetheriaError):
            print(error, file=sys.stderr)
        elif (lines := describe(error)) is None:  # not of a user's code
            traceback.print_exception(error)
        else:
            print(*lines, sep="\n", file=sys.stderr)


def _copied(state: Any) -> Any:
    """A copy through JSON: the listener keeps no hold on what is being saved, and what is not JSON
    is the listener's fault here, and would be the snapshot's later.
    """
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError, RecursionError) as error:
        raise AetheriaError(
            f"export_state: expected JSON values, got others ({error}); return numbers, "
            "text, lists and mappings of them"
        ) from error


def _precedes_first_step(event: Event) -> bool:
    """Whether no step was taken yet; evaluations and saves may come before the first report."""
    match event:
        case PhaseChanged():
            return event.source == "starting"
        case _:
            return isinstance(event, RunStarted)
