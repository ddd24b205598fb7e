"""The phases of a run and the one table of allowed transitions."""

from collections.abc import Mapping
from enum import Enum


class Phase(Enum):
    """Where the engine is. The last four are terminal."""

    STARTING = "starting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    COMPLETED = "completed"
    PREEMPTED = "preempted"
    HALTED = "halted"
    FAILED = "failed"


_P = Phase

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    _P.STARTING: frozenset({_P.TRAINING, _P.COMPLETED, _P.FAILED}),
    _P.TRAINING: frozenset(
        {_P.EVALUATING, _P.SAVING, _P.COMPLETED, _P.PREEMPTED, _P.HALTED, _P.FAILED}
    ),
    _P.EVALUATING: frozenset({_P.TRAINING, _P.FAILED}),
    _P.SAVING: frozenset({_P.TRAINING, _P.FAILED}),
    _P.COMPLETED: frozenset(),
    _P.PREEMPTED: frozenset(),
    _P.HALTED: frozenset(),
    _P.FAILED: frozenset(),
}


def is_terminal(phase: Phase) -> bool:
    """Whether a run in this phase is over.

    >>> is_terminal(Phase.COMPLETED), is_terminal(Phase.SAVING)
    (True, False)
    """
    return not TRANSITIONS[phase]


def check_transition(source: Phase, target: Phase) -> None:
    """Raises AssertionError for a transition the table does not hold: a fault of ours."""
    assert target in TRANSITIONS[source], f"no transition {source.value} -> {target.value}"
