"""`aetheria report RUN`: where the time of a run went, over all its restarts."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from aetheria.cli.table import print_table
from aetheria.errors import AetheriaError, ExitCode
from aetheria.observe.goodput import GOODPUT_FILE, Session, account, read_goodput

_MEANINGS = {
    "start": "imports, data, the program, a snapshot to go on from",
    "compile": "the first call of each step",
    "data": "waiting for training examples",
    "step": "training steps that were new",
    "evaluation": "passes over the evaluation split",
    "snapshot": "saves that the loop waited for",
    "recomputed": "steps taken again after a restart or a rollback",
    "downtime": "between two processes, or not written by one that was killed",
}


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Command: prints where the time of a run went.

    Attributes:
        run_dir: the run folder.
        as_json: prints one JSON object.
    """

    run_dir: Path
    as_json: bool = False

    def execute(self) -> int:
        """Prints. Raises AetheriaError if the run has no record of it."""
        sessions = read_goodput(self.run_dir)
        if not sessions:
            raise AetheriaError(
                f"report: expected a run folder with a {GOODPUT_FILE}, got {self.run_dir}; "
                "name another"
            )
        seconds = account(sessions)
        total = sum(seconds.values())
        if self.as_json:
            processes = [asdict(session) for session in sessions]
            told = {"total_seconds": total, "seconds": seconds, "processes": processes}
            print(json.dumps(told, indent=2))
            return int(ExitCode.OK)
        rows = [
            [kind, f"{spent:.1f}", f"{100 * spent / max(total, 1e-9):.1f} %", _MEANINGS[kind]]
            for kind, spent in seconds.items()
        ]
        rows.append(["all", f"{total:.1f}", "", ""])
        print_table(("time", "seconds", "share", ""), rows, right=("seconds", "share"))
        headers = ("process", "started", "seconds", "steps", "ended")
        print_table(headers, map(_row, range(1, len(sessions) + 1), sessions), right=("seconds",))
        return int(ExitCode.OK)


def _row(number: int, session: Session) -> list[str]:
    started_at = datetime.fromtimestamp(session.started_at).isoformat(" ", "seconds")
    steps = f"{session.first_step} to {session.step}"
    ended = "did not say" if session.status == "running" else session.status
    return [str(number), started_at, f"{session.until - session.started_at:.1f}", steps, ended]
