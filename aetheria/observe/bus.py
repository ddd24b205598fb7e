"""Delivers events to listeners, and keeps a broken listener from breaking the run."""

import json
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aetheria.config.json_types import JsonObject
from aetheria.errors import AetheriaError, summary_of
from aetheria.events import EvaluationCompleted, Event, PhaseChanged, RunStarted
from aetheria.observe.listener import Listener
from aetheria.plugins.user_code import describe

if TYPE_CHECKING:  # most runs have no listener that inspects
    from aetheria.observe.probe import Probe


class EventBus:
    """Observer: calls every listener in turn, in the order of the config.

    A listener that raises before the first step fails the run: a wrong setting of a logger should
    be known at once. A listener that raises later is detached, its error is printed on stderr, and
    the run continues. In both cases it is not called again, so that the other listeners still
    receive the events that end the run.
    """

    def __init__(self, listeners: Mapping[str, Listener]):
        self._listeners = dict(listeners)
        self._detached: dict[str, str] = {}
        self._is_past_start = False

    @property
    def detached(self) -> Mapping[str, str]:
        """The detached listeners: name -> the error, in one line."""
        return dict(self._detached)

    def attach(self, listeners: Mapping[str, Listener]) -> None:
        """Adds listeners after the present ones."""
        self._listeners.update(listeners)

    def emit(self, event: Event) -> None:
        """Delivers `event` to every listener that is still attached.

        Raises:
            Exception: whatever a listener raises before the first step.
        """
        self._is_past_start = self._is_past_start or not _precedes_first_step(event)
        for name, listener in list(self._listeners.items()):
            try:
                listener.notify(event)
            except Exception as error:
                if not self._is_past_start:
                    del self._listeners[name]
                    raise
                self._detach(name, error)

    @property
    def inspects(self) -> bool:
        """Whether a listener that is still attached has a method `inspect`."""
        return any(_has_inspect(listener) for listener in self._listeners.values())

    def inspect(self, event: EvaluationCompleted, probe: "Probe") -> None:
        """Lets the listeners that have a method `inspect` look at the model; one that raises is
        detached.
        """
        for name, listener in list(self._listeners.items()):
            if _has_inspect(listener):
                try:
                    listener.inspect(event, probe)  # type: ignore[attr-defined]
                except Exception as error:
                    self._detach(name, error)

    def export_state(self) -> dict[str, Any]:
        """Collects the states of the listeners, name -> JSON value.

        A listener that raises, or returns something other than JSON, is detached.
        """
        states = {}
        for name, listener in list(self._listeners.items()):
            export = getattr(listener, "export_state", None)
            if export is None:
                continue
            try:
                states[name] = _json_copy(export())
            except Exception as error:
                self._detach(name, error)
        return states

    def import_state(self, states: JsonObject) -> None:
        """Gives every listener its state back; one that is not in `states` starts without."""
        for name, listener in self._listeners.items():
            restore = getattr(listener, "import_state", None)
            if restore is not None and name in states:
                restore(states[name])

    def _detach(self, name: str, error: Exception) -> None:
        del self._listeners[name]
        self._detached[name] = summary_of(error, 500)
        print(f"listener {name!r} raised and was detached; the run continues", file=sys.stderr)
        if isinstance(error, AetheriaError):
            print(error, file=sys.stderr)
            return
        lines = describe(error)
        if lines is None:  # the error is not in a user's code
            traceback.print_exception(error)
        else:
            print(*lines, sep="\n", file=sys.stderr)


def _has_inspect(listener: Listener) -> bool:
    return callable(getattr(listener, "inspect", None))


def _json_copy(state: object) -> Any:
    """Copies a state through JSON.

    The snapshot is written while the run continues, so it must not share objects with the listener.
    A state that is not JSON fails here, where it costs only the listener; in the snapshot it would
    fail every save.
    """
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError, RecursionError) as error:
        raise AetheriaError(
            f"export_state: expected JSON values, got others ({error}); return numbers, "
            "text, lists and mappings of them"
        ) from error


def _precedes_first_step(event: Event) -> bool:
    """Whether no step was taken before `event`.

    The first `TrainMetrics` is no such boundary: evaluations and saves may come before it.
    """
    if isinstance(event, PhaseChanged):
        return event.source == "starting"
    return isinstance(event, RunStarted)
