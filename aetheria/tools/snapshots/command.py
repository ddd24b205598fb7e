"""`aetheria snapshots RUN` lists a run's snapshots; `aetheria snapshots verify RUN` tells good from
bad by its exit code.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aetheria.cli.table import print_table
from aetheria.errors import ExitCode
from aetheria.snapshots.sizes import size_text

if TYPE_CHECKING:
    from aetheria.tools.snapshots.inspection import Inspected

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, kw_only=True)
class SnapshotsCommand:
    """Command: lists snapshots.

    Attributes:
        where: a run folder, or one snapshot.
        quick: does not read the arrays, so that nothing is said of their digests.
        as_json: prints JSON lines, one for each.
    """

    where: Path
    quick: bool = False
    as_json: bool = False

    def execute(self) -> int:
        """Prints the list. Raises AetheriaError if there is none."""
        from aetheria.tools.snapshots.inspection import inspect_run, list_quarantined

        found = list(inspect_run(self.where, verify=not self.quick))
        aside = list_quarantined(self.where)
        if self.as_json:
            for item in found:
                print(json.dumps({**asdict(item), "path": str(item.path)}))
            return int(ExitCode.OK)
        headers = ("snapshot", "step", "size", "age", "verified", "")
        print_table(headers, map(_row, found), right=("step", "size"))
        if aside:
            print(f"{len(aside)} in quarantine: {', '.join(str(path) for path in aside)}")
        return int(ExitCode.OK)


@dataclass(frozen=True, kw_only=True)
class VerifySnapshotsCommand:
    """Command: compares every leaf with its digest; exit code 1 if one is damaged.

    Attributes:
        where: a run folder, or one snapshot.
    """

    where: Path

    def execute(self) -> int:
        """Prints a line for each. Raises AetheriaError if there is none."""
        from aetheria.tools.snapshots.inspection import inspect_run

        all_sound = True
        for item in inspect_run(self.where, verify=True):
            all_sound &= not item.problem
            print(item.problem or f"{item.path}: sound, {size_text(item.size_bytes)}", flush=True)
        return int(ExitCode.OK if all_sound else ExitCode.FAILED)


def _row(item: "Inspected") -> list[str]:
    verified = {None: "not asked", "": "yes"}.get(item.problem, "NO")
    step = "?" if item.step is None else str(item.step)
    size, age = size_text(item.size_bytes), _age(item.age_seconds)
    return [item.path.name, step, size, age, verified, "best" if item.best else ""]


def _age(seconds: float) -> str:
    """The two largest units.

    >>> _age(3_725.0), _age(0.4)
    ('1 h 2 min', '0 s')
    """
    rest, words = int(seconds), []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"
