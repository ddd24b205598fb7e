"""What a run does when a global batch is not finite."""

from dataclasses import dataclass
from typing import Literal

from aetheria.engine.interfaces import DumpWriter, GuardCounters

_FOREVER = 2**31 - 1  # no step is later


@dataclass(frozen=True, kw_only=True)
class NonFinitePolicy:
    """The config's `on_nonfinite`. The guard in the step has already left the state as it was.

    Attributes:
        action: `skip`: continue with the next global batch. `halt`: end the run. `rollback`: return
            to the newest snapshot that verifies and recompute the same steps; skip the global batch
            if it is non-finite again.
        max_consecutive_skips: skips in a row that end the run in any case.
        dumps: writes what is needed to find the cause.
    """

    action: Literal["skip", "halt", "rollback"]
    max_consecutive_skips: int
    dumps: DumpWriter

    @property
    def rolls_back(self) -> bool:
        return self.action == "rollback"

    def halts(self, guard: GuardCounters) -> bool:
        """Whether the run ends here."""
        too_many = guard.consecutive_skips >= self.max_consecutive_skips
        return too_many or self.action == "halt"

    def ignore_until(self, step: int) -> int:
        """Up to which step the guard need not freeze the state, after it froze at `step`.

        Freezing costs the steps dispatched meanwhile. Where the policy is to skip, the state
        freezes only as often as a dump is written.
        """
        return step if self.dumps.has_budget() else _FOREVER

    @property
    def ignore_until_at_start(self) -> int | None:
        """The same for a run that resumes from a snapshot; None: what that run had set."""
        return None if self.action == "skip" else 0
