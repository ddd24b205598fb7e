"""What `aetheria report` prints of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from aetheria.cli.table import print_table
from aetheria.errors import AetheriaError
from aetheria.observe.goodput import GOODPUT_FILE, Session, account, read_goodput
from aetheria.tools.report.kinds import MEANINGS
from aetheria.tools.report.speed import typical_speed


def read_time(run: Path) -> Sequence[Session]:
    """The processes of a run. Raises AetheriaError if the run has no record of its time."""
    sessions = read_goodput(run)
    if not sessions:
        raise AetheriaError(
            f"report: expected a run folder with a {GOODPUT_FILE}, got {run}; name another"
        )
    return sessions


def as_json(run: Path, sessions: Sequence[Session]) -> Mapping[str, object]:
    """What `--json` prints of a run."""
    seconds = account(sessions)
    return {
        "total_seconds": sum(seconds.values()),
        "seconds": seconds,
        "speed": typical_speed(run),
        "processes": [asdict(session) for session in sessions],
    }


def print_time(run: Path, sessions: Sequence[Session]) -> None:
    """Prints the tables of a run."""
    seconds, speed = account(sessions), typical_speed(run)
    total = sum(seconds.values())
    rows = [
        [kind, f"{spent:.1f}", f"{100 * spent / max(total, 1e-9):.1f} %", MEANINGS[kind]]
        for kind, spent in seconds.items()
    ]
    rows.append(["all", f"{total:.1f}", "", ""])
    print_table(("time", "seconds", "share", ""), rows, right=("seconds", "share"))
    if speed:
        medians = [[name, f"{value:.6g}"] for name, value in speed.items()]
        print_table(("training", "median"), medians, right=("median",))
    headers = ("process", "started", "seconds", "steps", "ended")
    print_table(headers, map(_row, range(1, len(sessions) + 1), sessions), right=("seconds",))


def _row(number: int, session: Session) -> list[str]:
    started_at = datetime.fromtimestamp(session.started_at).isoformat(" ", "seconds")
    steps = f"{session.first_step} to {session.step}"
    ended = "did not say" if session.status == "running" else session.status
    return [str(number), started_at, f"{session.until - session.started_at:.1f}", steps, ended]
