"""What becomes of a run in which a window is not finite."""

from dataclasses import dataclass
from typing import Literal

from aetheria.engine.interfaces import DumpWriter, GuardCounters

_FOREVER = 2**31 - 1  # no step is later


@dataclass(frozen=True, kw_only=True)
class NonFinitePolicy:
    """The config's `on_nonfinite`. The guard in the step has already left everything as it was.

    Attributes:
        action: `skip`: go on with the next window. `halt`: end the run. `rollback`: go back to the
            newest sound snapshot and take the same steps again; step over the window if it is not
            finite again.
        max_consecutive_skips: skips in a row that end the run all the same.
        dumps: keeps what is needed to find out why.
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

    def examined(self, step: int) -> int:
        """Up to which step the guard need not stop for the host, after it has stopped at `step`.

        A stop costs the steps dispatched meanwhile, so where skips are all that is wanted, it is
        made no more often than a dump is kept.
        """
        return step if self.dumps.has_budget() else _FOREVER

    @property
    def ignore_until_at_start(self) -> int | None:
        """The same for a run that goes on from a snapshot; None: what that run had settled on."""
        return None if self.action == "skip" else 0
