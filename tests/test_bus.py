"""The event bus: who hears what, and what becomes of a listener that raises."""

import pytest

from aetheria.events import (
    EvaluationCompleted,
    PhaseChanged,
    Progress,
    RunEnded,
    RunStarted,
    TrainMetrics,
)
from aetheria.observe import EventBus

STARTED = RunStarted(progress=Progress(), total_steps=4, steps_per_epoch=2, resumed=False)
TRAINING = PhaseChanged(progress=Progress(), source="starting", target="training")
STEP = TrainMetrics(progress=Progress(step=1), metrics={"loss": 1.0}, steps_per_second=1.0)
EVALUATING = PhaseChanged(progress=Progress(step=1), source="training", target="evaluating")
EVALUATED = EvaluationCompleted(
    progress=Progress(step=1), metrics={"loss": 1.0}, num_examples=1, seconds=0.0
)
FAILED = PhaseChanged(progress=Progress(), source="starting", target="failed")
ENDED = RunEnded(progress=Progress(step=1), status="completed", reason="end of schedule")


class Fake:
    """Notes what it hears; raises at one event, for ever if told so; has a state if given one."""

    def __init__(self, name="fake", heard=None, raises_at=None):
        self.name, self.raises_at = name, raises_at
        self.heard = [] if heard is None else heard

    def notify(self, event):
        self.heard.append((self.name, event))
        if event is self.raises_at:
            raise RuntimeError(f"{self.name} is broken")


class Stateful(Fake):
    """A listener that is part of the snapshot."""

    def __init__(self, state, **options):
        super().__init__(**options)
        self.state = state

    def export_state(self):
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def import_state(self, state):
        self.state = state


def events_of(fake):
    return [event for _, event in fake.heard]


def emit_all(bus, *events):
    for event in events:
        bus.emit(event)


def test_every_listener_hears_every_event_in_the_order_of_the_config():
    heard = []
    emit_all(EventBus({name: Fake(name, heard) for name in "bac"}), STARTED, TRAINING, STEP, ENDED)
    assert heard == [(n, event) for event in (STARTED, TRAINING, STEP, ENDED) for n in "bac"]


@pytest.mark.parametrize("event", [STARTED, TRAINING], ids=["started", "training"])
def test_a_listener_that_raises_before_the_first_step_fails_the_run(event, capsys):
    bus = EventBus({"broken": Fake("broken", raises_at=event)})
    with pytest.raises(RuntimeError, match="broken is broken"):
        emit_all(bus, STARTED, TRAINING)
    assert capsys.readouterr().err == "", "the error itself is the message"


@pytest.mark.parametrize("event", [STEP, EVALUATING, EVALUATED], ids=lambda e: type(e).__name__)
def test_a_listener_that_raises_later_is_detached_and_its_code_is_named(event, capsys):
    broken, before, after = Fake("broken", raises_at=event), Fake(), Fake()
    bus = EventBus({"before": before, "broken": broken, "after": after})
    # Twice: a listener still attached would raise, and print, again.
    emit_all(bus, STARTED, TRAINING, event, event, ENDED)
    expected = [STARTED, TRAINING, event, event, ENDED]
    assert events_of(before) == events_of(after) == expected
    assert events_of(broken) == [STARTED, TRAINING, event]
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("test_bus.py:") == 2, "his frame, and the error"
    assert "listener 'broken' raised and was detached" in error
    assert "RuntimeError: broken is broken" in error


def test_a_listener_that_raises_at_the_very_end_is_not_the_end_of_the_others(capsys):
    last = Fake()
    emit_all(EventBus({"broken": Fake(raises_at=ENDED), "last": last}), STARTED, STEP, ENDED)
    assert events_of(last) == [STARTED, STEP, ENDED]
    assert capsys.readouterr().err.count(" is broken\n") == 1


def test_the_others_hear_how_a_run_ends_that_a_listener_failed(capsys):
    """The engine says FAILED and ENDED; the broken listener must not raise at these again."""
    broken, other = Fake("broken", raises_at=STARTED), Fake()
    bus = EventBus({"broken": broken, "other": other})
    with pytest.raises(RuntimeError):
        bus.emit(STARTED)
    emit_all(bus, FAILED, ENDED)
    assert events_of(broken) == [STARTED]
    assert events_of(other) == [FAILED, ENDED]
    assert capsys.readouterr().err == ""


def test_an_interrupt_is_no_fault_of_a_listener():
    class Interrupted:
        def notify(self, event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EventBus({"interrupted": Interrupted()}).emit(STEP)


def test_states_are_exported_by_name_and_only_of_listeners_that_have_one():
    bus = EventBus({"stateful": Stateful({"best": 0.5}), "plain": Fake(), "empty": Stateful({})})
    assert bus.export_state() == {"stateful": {"best": 0.5}, "empty": {}}


def test_states_are_imported_by_name_and_a_new_listener_keeps_its_own():
    known, new = Stateful({"best": 1}), Stateful({"best": 2})
    bus = EventBus({"known": known, "plain": Fake(), "new": new})
    bus.import_state({"known": {"best": 3}, "plain": {"best": 4}, "gone": {"best": 5}})
    assert known.state == {"best": 3}
    assert new.state == {"best": 2}


def test_exported_states_come_back_the_same():
    before, after = Stateful({"best": 0.1, "id": "a", "none": None}), Stateful({})
    EventBus({"one": after}).import_state(EventBus({"one": before}).export_state())
    assert after.state == before.state


def test_a_state_that_was_exported_no_longer_follows_the_listener():
    """A snapshot is written while the run goes on."""
    live = Stateful({"seen": [1]})
    exported = EventBus({"live": live}).export_state()
    live.state["seen"].append(2)
    assert exported == {"live": {"seen": [1]}}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (RuntimeError("broken export"), "test_bus.py:"),
        ({"not": object()}, "export_state: expected JSON values"),
    ],
    ids=["raises", "no JSON"],
)
def test_a_listener_whose_state_cannot_be_exported_is_detached(state, words, capsys):
    """Its state would make every snapshot fail; the others' states are saved."""
    broken, other = Stateful(state), Stateful({"kept": 1})
    bus = EventBus({"broken": broken, "other": other})
    emit_all(bus, STARTED, STEP)
    assert bus.export_state() == {"other": {"kept": 1}}
    emit_all(bus, STEP)
    assert bus.export_state() == {"other": {"kept": 1}}
    assert len(broken.heard) == 2 < len(other.heard)
    error = capsys.readouterr().err
    assert words in error and error.count("was detached") == 1 and "Traceback" not in error
