"""The contract of a listener, that is of a logger or a callback, and what one is given."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aetheria.config.json_types import JsonObject
from aetheria.engine.stop import StopSignal
from aetheria.events import EvaluationCompleted, Event

if TYPE_CHECKING:  # most runs have no listener that inspects
    from aetheria.observe.probe import Probe


class Listener(Protocol):
    """Observer: an object with a method `notify`.

    The config names a class or function that makes one; it is called with a `RunContext` and the
    arguments that the config gives. A listener has no access to the engine or the state: it can
    only read events, and ask for a stop through the context.

    A listener that raises before the first step fails the run. One that raises later is detached
    with a message on stderr, and the run continues.
    """

    def notify(self, event: Event) -> None:
        """Called with every event of the run, in order: the first is `RunStarted`, the last
        `RunEnded`. An event of a type that the listener does not know is to be ignored.
        """
        ...


class StatefulListener(Listener, Protocol):
    """A listener with a state that is part of every snapshot.

    Each of the two methods is optional by itself: the bus calls the one that exists.
    """

    def export_state(self) -> JsonObject:
        """Returns the state as JSON values; called for every snapshot.

        It is also the moment to flush: what a listener wrote before a snapshot must still exist if
        the process is killed after it, since a resumed run does not emit those events again.
        """
        ...

    def import_state(self, state: JsonObject) -> None:
        """Takes back what `export_state` returned; called before `RunStarted` when a run resumes,
        and before `RolledBack`. Not called for a listener that the snapshot does not know.
        """
        ...


class InspectingListener(Listener, Protocol):
    """A listener that looks at the model at evaluations.

    If no listener has this method, or it is None in all of them, nothing is computed for it.
    """

    def inspect(self, event: EvaluationCompleted, probe: "Probe") -> None:
        """Called after every listener was notified of an evaluation; the probe answers until it
        returns. A listener that raises here is detached, and the run continues.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a logger or callback is given when it is made.

    Attributes:
        run_dir: the run folder.
        config: the resolved config, plain values.
        stop: through its `request`, a listener asks the engine to end the run.
        eval_metrics: the metrics that an evaluation reports, with names such as `eval/loss`, and
            `eval/ood/loss` of several evaluation splits.
        eval_splits: the names of the evaluation splits, as events have them. `eval/loss` is that of
            the first.
        schedules: name -> function from a step to the value there, of the optimizer's
            hyperparameters that can be read.
        is_fork: the run continues another run's snapshot in a folder of its own. Whatever
            identifies that other run to a service must not be used again.
        started_at: when the process began to work on the run, in seconds since the epoch.
        start_profile: begins to record what the host and the devices of this process do, into a
            folder, and returns what ends the recording; None: the strategy has no such recorder.
    """

    run_dir: Path
    config: Mapping[str, Any]
    stop: StopSignal
    eval_metrics: tuple[str, ...] = ()
    eval_splits: tuple[str, ...] = ("eval",)
    schedules: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    is_fork: bool = False
    started_at: float = field(default_factory=time.time)
    start_profile: Callable[[Path], Callable[[], None]] | None = None
