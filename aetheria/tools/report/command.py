"""`aetheria report RUN`: where the time of a run went, over all its restarts, and its speed."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aetheria.cli import values
from aetheria.cli.flag import Argument, Flag
from aetheria.cli.table import print_table
from aetheria.errors import AetheriaError, ExitCode

if TYPE_CHECKING:
    from aetheria.observe.goodput import Session

_MEANINGS = {
    "start": "imports, data, the program, restoring a snapshot",
    "compile": "the first call of each step",
    "data": "waiting for training examples",
    "step": "training steps that were not recomputed",
    "evaluation": "passes over the evaluation and test splits",
    "snapshot": "saves that the training loop waited for",
    "recomputed": "steps repeated after a restart or a rollback",
    "downtime": "between two processes, or not recorded because of a kill",
}


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Reports where the time of a run went, and how fast it trained.

    Examples:
        aetheria report runs/mlp/1
        aetheria report runs/mlp/1 --json

    Exit codes:
        0: reported
        2: a mistake

    Attributes:
        run: a run folder.
        as_json: print only JSON.
    """

    run: Annotated[Path, Argument(values.local_path)]
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Prints the report. Raises AetheriaError if the run has no record of its time."""
        from aetheria.observe.goodput import GOODPUT_FILE, account, read_goodput
        from aetheria.tools.report.speed import typical_speed

        sessions = read_goodput(self.run)
        if not sessions:
            raise AetheriaError(
                f"report: expected a run folder with a {GOODPUT_FILE}, got {self.run}; name another"
            )
        seconds, speed = account(sessions), typical_speed(self.run)
        total = sum(seconds.values())
        if self.as_json:
            processes = [asdict(session) for session in sessions]
            report = {
                "total_seconds": total,
                "seconds": seconds,
                "speed": speed,
                "processes": processes,
            }
            print(json.dumps(report, indent=2))
            return int(ExitCode.OK)
        rows = [
            [kind, f"{spent:.1f}", f"{100 * spent / max(total, 1e-9):.1f} %", _MEANINGS[kind]]
            for kind, spent in seconds.items()
        ]
        rows.append(["all", f"{total:.1f}", "", ""])
        print_table(("time", "seconds", "share", ""), rows, right=("seconds", "share"))
        if speed:
            medians = [[name, f"{value:.6g}"] for name, value in speed.items()]
            print_table(("training", "median"), medians, right=("median",))
        headers = ("process", "started", "seconds", "steps", "ended")
        print_table(headers, map(_row, range(1, len(sessions) + 1), sessions), right=("seconds",))
        return int(ExitCode.OK)


def _row(number: int, session: "Session") -> list[str]:
    started_at = datetime.fromtimestamp(session.started_at).isoformat(" ", "seconds")
    steps = f"{session.first_step} to {session.step}"
    ended = "did not say" if session.status == "running" else session.status
    return [str(number), started_at, f"{session.until - session.started_at:.1f}", steps, ended]
