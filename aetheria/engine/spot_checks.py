"""What a run does when a spot check finds that a device computed wrong."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol

from aetheria.engine.interfaces import Program, Report, State, Totals
from aetheria.engine.schedule import Schedule
from aetheria.engine.train_data import Taken
from aetheria.events import Progress, SpotCheckFailed, Suspect


class Place(NamedTuple):
    """A device, and the index of the process that it belongs to."""

    device: str
    process: int


class Mismatch(NamedTuple):
    """What differed at a check.

    Attributes:
        what: in words.
        places: the devices that were wrong.
        is_decided: whether a majority says so; else these are all that may have been wrong.
        is_of_state: whether the states of the devices differ; else what they computed of one.
    """

    what: str
    places: Sequence[Place]
    is_decided: bool
    is_of_state: bool


class CheckedProgram(Program[State, Report, Totals], Protocol):
    """A program whose devices can check each other."""

    def checked_step(
        self,
        state: State,
        arrays: Mapping[str, Any],
        start: int,
        since: Report | None,
        step: int,
    ) -> tuple[State, Report]:
        """Takes one step as `train_steps` does, if the devices agree; else freezes the state before
        it. Does not wait.

        Args:
            state: used up.
            arrays: a chunk's.
            start: the global batch.
            since: the report of the steps before.
            step: steps taken before.
        """
        ...

    def examine(self, state: State, arrays: Mapping[str, Any], start: int, step: int) -> Mismatch:
        """Finds which device was wrong at the check at which the state froze; the arguments are
        those of that step.
        """
        ...

    def continue_frozen(self, state: State) -> State:
        """Lets a state go on that froze at a check; it is used up."""
        ...


Action = Literal["report", "halt", "rollback"]


class SpotChecks(Generic[State, Report, Totals]):
    """The config's `spot_check_every` and `on_mismatch`.

    Args:
        program: makes the checks.
        schedule: says at which steps.
        action: `report`: take the step again. `halt`: end the run. `rollback`: return to the newest
            snapshot known good, and end the run if the same check fails again.
        hosts: the name of each process's host.

    Attributes:
        passed_step: the last step whose state has passed a check; None: none has.
        action: as given.
        failures: the checks that failed since the process started.
    """

    def __init__(
        self,
        program: CheckedProgram[State, Report, Totals],
        schedule: Schedule,
        action: Action,
        hosts: Sequence[str],
    ):
        self._program, self._schedule, self._hosts = program, schedule, hosts
        self.action: Action = action
        self.failures: list[SpotCheckFailed] = []
        self.passed_step: int | None = None
        self._failed_step: int | None = None  # at which a check failed last
        self._unchecked_step: int | None = None

    def is_due(self, progress: Progress) -> bool:
        """Whether the next step is a checked one."""
        return self._schedule.is_check_due(progress) and progress.step != self._unchecked_step

    def take(
        self, state: State, taken: Taken, since: Report | None, progress: Progress
    ) -> tuple[State, Report]:
        """Takes the next step, checked."""
        return self._program.checked_step(state, taken.arrays, taken.start, since, progress.step)

    def pass_up_to(self, step: int) -> None:
        """Notes that the steps up to this one were taken: so the checks before have passed."""
        last = self._schedule.last_check_before(step)
        if last is not None and last != self._unchecked_step:
            self.passed_step = max(last, self.passed_step or 0)

    def examine(self, state: State, taken: Taken, progress: Progress) -> SpotCheckFailed:
        """Finds which device was wrong, and what follows."""
        found = self._program.examine(state, taken.arrays, taken.start, progress.step)
        again = self._failed_step == progress.step
        self._failed_step = progress.step
        action: Action = "halt" if again and self.action == "rollback" else self.action
        if action == "report" and (again or found.is_of_state):
            self._unchecked_step = progress.step
        suspects = [
            Suspect(device=device, process=process, host=self._hosts[process])
            for device, process in found.places
        ]
        failed = SpotCheckFailed(
            progress=progress,
            what=found.what,
            suspects=tuple(suspects),
            is_decided=found.is_decided,
            action=action,
        )
        self.failures.append(failed)
        return failed

    def go_on(self, state: State) -> State:
        """Lets the state go on to the step at which the check failed."""
        return self._program.continue_frozen(state)
