"""What a run does when a spot check finds that a device computed wrong."""

from collections.abc import Sequence
from typing import Generic, Literal

from aetheria.engine.interfaces import CheckedProgram, Report, State, Totals
from aetheria.engine.schedule import Schedule
from aetheria.engine.train_data import Taken
from aetheria.events import Progress, SpotCheckFailed, Suspect

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
