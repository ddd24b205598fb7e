"""`aetheria runs [FOLDER]`: the runs in a folder, one a line."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aetheria.cli import values
from aetheria.cli.flag import Argument, Flag, Repeated
from aetheria.cli.table import print_table
from aetheria.errors import AetheriaError, ExitCode, shown
from aetheria.tools.runs.conditions import Condition, read_condition

if TYPE_CHECKING:
    from aetheria.training.run_info import RunInfo

_STATUSES = (
    *("running", "completed", "preempted", "halted", "failed"),
    *("hung", "killed", "imported", "unknown"),
)


def _status(text: str) -> str:
    """Reads a status.

    >>> _status("killed")
    'killed'
    """
    if text not in _STATUSES:
        raise ValueError(f"expected one of {', '.join(_STATUSES)}, got {shown(text)}")
    return text


@dataclass(frozen=True, kw_only=True)
class RunsCommand:
    """Lists runs: how they ended, how far and how well they got, their age and their size.

    Examples:
        aetheria runs
        aetheria runs runs/mlp --status completed --sort best
        aetheria runs --where learning_rate=0.003 --where 'eval/accuracy>0.9' --json

    Exit codes:
        0: listed
        2: a mistake

    Attributes:
        folder: where to look, in all subfolders.
        status: only runs with this status: running, completed, preempted, halted, failed, hung,
            killed, imported or unknown; may be repeated.
        where: only runs that meet this condition on a key of the config, on a final metric, or on
            step, best, note, name or size_bytes, with = != < <= > or >=; may be repeated.
        sort: the order; best puts the best first, age the youngest, step and size the largest.
        as_json: print only JSON, one line for each run.
    """

    folder: Annotated[Path, Argument(values.local_path)] = Path("runs")
    status: Annotated[tuple[str, ...], Repeated(_status, "STATUS")] = ()
    where: Annotated[tuple[Condition, ...], Repeated(read_condition, "CONDITION")] = ()
    sort: Literal["name", "age", "step", "best", "size", "status"] = "name"
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Prints the list. Raises AetheriaError if there is no such folder."""
        from aetheria.tools.runs.text import HEADERS, as_json, row
        from aetheria.training.run_info import find_runs, read_run

        if not self.folder.is_dir():
            raise AetheriaError(
                f"runs: expected a folder with runs, got {self.folder}, which is no folder; name "
                "another"
            )
        every = [read_run(path) for path in find_runs(self.folder)]
        found = sorted(filter(self._is_asked_for, every), key=_ORDERS[self.sort])
        if self.as_json:
            for run in found:
                print(json.dumps(as_json(run)))
            return int(ExitCode.OK)
        if found:
            print_table(HEADERS, map(row, found), right=("step", "size"))
        hidden = f" ({len(every)} in all)" if len(every) > len(found) else ""
        print(f"{len(found)} run{'' if len(found) == 1 else 's'} in {self.folder}{hidden}")
        return int(ExitCode.OK)

    def _is_asked_for(self, run: "RunInfo") -> bool:
        fits = not self.status or run.status in self.status
        return fits and all(condition.holds(run) for condition in self.where)


def _name(run: "RunInfo") -> list[tuple[bool, int, str]]:
    """Sorts `runs/mlp/10` behind `runs/mlp/9`."""
    parts = re.split(r"(\d+)", str(run.path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _best(run: "RunInfo") -> tuple[str, float]:
    """Only values of one metric can be compared."""
    if run.best is None or math.isnan(run.best):
        return run.monitor, math.inf
    return run.monitor, run.best if run.mode == "min" else -run.best


_ORDERS: dict[str, Callable[["RunInfo"], Any]] = {
    "name": _name,
    "age": lambda run: -(run.started_at or 0.0),
    "step": lambda run: -(run.step or 0),
    "best": _best,
    "size": lambda run: -run.size_bytes,
    "status": lambda run: (run.status, _name(run)),
}
