"""`aetheria snapshots RUN` lists the snapshots of a run; `aetheria snapshots verify RUN` reports by
its exit code whether all of them are undamaged.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aetheria.cli import values
from aetheria.cli.flag import Argument, Flag
from aetheria.cli.table import print_table
from aetheria.errors import ExitCode

if TYPE_CHECKING:
    from aetheria.tools.snapshots.inspection import Inspected

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, kw_only=True)
class SnapshotsCommand:
    """Lists the snapshots of a run.

    Examples:
        aetheria snapshots runs/mlp/1
        aetheria snapshots runs/mlp/1 --quick --json

    Exit codes:
        0: listed
        2: a mistake

    Attributes:
        where: a run folder, or one snapshot.
        quick: do not read the arrays, and do not verify them.
        as_json: print only JSON, one line for each snapshot.
    """

    where: Annotated[Path, Argument(values.local_path, name="RUN|PATH")]
    quick: bool = False
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Prints the list. Raises AetheriaError if there is no snapshot."""
        from aetheria.tools.snapshots.inspection import inspect_run, list_quarantined

        found = list(inspect_run(self.where, verify=not self.quick))
        quarantined = list_quarantined(self.where)
        if self.as_json:
            for item in found:
                print(json.dumps({**asdict(item), "path": str(item.path)}))
            return int(ExitCode.OK)
        headers = ("snapshot", "step", "size", "age", "verified", "")
        print_table(headers, map(_row, found), right=("step", "size"))
        if any(item.passed_check is not None for item in found):
            passed = max(item.passed_check or 0 for item in found)
            print(f"spot checks passed up to step {passed}")
        if quarantined:
            paths = ", ".join(str(path) for path in quarantined)
            print(f"{len(quarantined)} in quarantine: {paths}")
        return int(ExitCode.OK)


@dataclass(frozen=True, kw_only=True)
class VerifySnapshotsCommand:
    """Compares every leaf of the snapshots with its digest.

    Examples:
        aetheria snapshots verify runs/mlp/1
        aetheria snapshots verify runs/mlp/1/checkpoints/snapshot_ep2

    Exit codes:
        0: all are undamaged
        1: one is damaged
        2: a mistake

    Attributes:
        where: a run folder, or one snapshot.
    """

    where: Annotated[Path, Argument(values.local_path, name="RUN|PATH")]

    def execute(self) -> int:
        """Prints a line for each snapshot. Raises AetheriaError if there is none."""
        from aetheria.snapshots.sizes import size_text
        from aetheria.tools.snapshots.inspection import inspect_run

        all_undamaged = True
        for item in inspect_run(self.where, verify=True):
            all_undamaged &= not item.problem
            print(item.problem or f"{item.path}: sound, {size_text(item.size_bytes)}", flush=True)
        return int(ExitCode.OK if all_undamaged else ExitCode.FAILED)


def _row(item: "Inspected") -> list[str]:
    from aetheria.snapshots.sizes import size_text

    verified = {None: "not asked", "": "yes"}.get(item.problem, "NO")
    step = "?" if item.step is None else str(item.step)
    size, age = size_text(item.size_bytes), _age(item.age_seconds)
    return [item.path.name, step, size, age, verified, "best" if item.best else ""]


def _age(seconds: float) -> str:
    """A duration in its two largest units.

    >>> _age(3_725.0), _age(0.4)
    ('1 h 2 min', '0 s')
    """
    rest, parts = int(seconds), []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
