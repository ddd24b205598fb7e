"""Goodput: which part of a run's time went into steps, over all its restarts; and the rest.

Kept in `goodput.jsonl` in the run folder, a line for each process.
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aetheria.events import Event, PhaseChanged, RolledBack, RunEnded, RunStarted, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.retrying_file import RetryingFile

GOODPUT_FILE = "goodput.jsonl"
_FILE_OF_0_1_0 = "ledger.jsonl"  # its sessions say `began`, `replayed` and `down`
_WORDS_OF_0_1_0 = {"replayed": "recomputed", "down": "downtime"}
# In the order of the report. Every second of a process is in one of the first seven.
KINDS = ("start", "compile", "data", "step", "evaluation", "snapshot", "recomputed", "downtime")
_KIND_OF_PHASE = {"starting": "start", "training": "step", "evaluating": "evaluation"}
_WRITE_SECONDS = 5.0  # what a kill may leave untold


@dataclass(kw_only=True)
class Session:
    """One process of a run, from its start to where it was last heard of.

    Attributes:
        started_at: seconds since the epoch.
        until: likewise.
        first_step: where it took the run up.
        step: how far it came.
        furthest: how far any has come, itself included; what lies before is recomputed.
        status: how it ended; `running`: it did not say, so it runs or was killed.
        seconds: of each kind but `downtime`.
    """

    started_at: float
    until: float
    first_step: int = 0
    step: int = 0
    furthest: int = 0
    status: str = "running"
    seconds: dict[str, float] = field(default_factory=dict)


class GoodputRecorder:
    """Observer: puts each second between two events down to what the run did meanwhile."""

    def __init__(self, context: RunContext):
        self._path, self._started_at = context.run_dir / GOODPUT_FILE, context.started_at
        self._file: RetryingFile | None = None
        self._phase, self._waited = "starting", (0.0, 0.0)

    def notify(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._open(event)
        if self._file is None:
            return  # what fails before it starts has no folder
        if not isinstance(event, (RunStarted, PhaseChanged, TrainMetrics, RolledBack, RunEnded)):
            return
        if isinstance(event, RolledBack):
            self._session.furthest = max(self._session.furthest, event.from_step)
            self._session.step = event.progress.step
        self._book(event)
        if isinstance(event, PhaseChanged):
            self._phase = event.target
        if isinstance(event, RunEnded):
            self._session.status = event.status
        ends = isinstance(event, (RunStarted, RunEnded))
        if ends or self._session.until - self._written > _WRITE_SECONDS:
            self._write()
        if isinstance(event, RunEnded):
            self._file.close()

    def _open(self, event: RunStarted) -> None:
        earlier = read_goodput(self._path.parent)
        step = event.progress.step
        furthest = max([step, *(session.furthest for session in earlier)])
        self._session = Session(
            started_at=self._started_at,
            until=self._started_at,
            first_step=step,
            step=step,
            furthest=furthest,
        )
        self._file = RetryingFile(self._path)
        # A line a process is enough of those that have ended. Without room on the disk all stay,
        # but for what a kill left half written.
        if not self._file.become("".join(_line(session) for session in earlier).encode()):
            content = self._file.content()
            self._file.become(content[: content.rfind(b"\n") + 1])

    def _book(self, event: Any) -> None:
        """Puts the time since the last event down."""
        session, now = self._session, time.time()
        # The clock of the day may be set back.
        spent = max(0.0, now - session.until)
        session.until = max(now, session.until)
        if stalls := getattr(event, "stalls", None):
            kinds = (stalls.data_seconds, stalls.compile_seconds)
            data, compiling = (new - old for new, old in zip(kinds, self._waited, strict=True))
            self._waited = kinds
        else:
            data = compiling = 0.0
        # No more than there was: the clock of the waits is another.
        compiling = min(compiling, spent)
        data = min(data, spent - compiling)
        kind = _KIND_OF_PHASE.get(self._phase, "snapshot")  # at the end the last save is awaited
        again = 0.0 if kind == "start" else self._recomputed(event.progress.step)
        self._add("compile", compiling)
        self._add("data", data * (1 - again))
        self._add(kind, (spent - compiling - data) * (1 - again))
        self._add("recomputed", (spent - compiling) * again)

    def _recomputed(self, step: int) -> float:
        """Which part of the time since the last event went over steps that were taken before."""
        session, before = self._session, self._session.step
        old, session.furthest = session.furthest, max(session.furthest, step)
        session.step = max(before, step)
        if step <= before:
            return float(step < old)
        return max(0.0, min(step, old) - before) / (step - before)

    def _add(self, kind: str, seconds: float) -> None:
        self._session.seconds[kind] = self._session.seconds.get(kind, 0.0) + seconds

    def _write(self) -> None:
        assert self._file is not None, "RunStarted comes first"
        self._file.write(_line(self._session).encode())
        self._file.flush()
        self._written = self._session.until


def read_goodput(run_dir: Path) -> list[Session]:
    """The processes of a run, in order; what cannot be read is left out."""
    sessions: dict[float, Session] = {}  # a process writes again and again; its last line counts
    for line in [*_lines(run_dir / _FILE_OF_0_1_0), *_lines(run_dir / GOODPUT_FILE)]:
        try:
            session = _session(line)
        except (ValueError, TypeError, AttributeError):
            continue  # what a kill or a crash left
        sessions[session.started_at] = session
    return [sessions[started_at] for started_at in sorted(sessions)]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _session(line: str) -> Session:
    """Raises ValueError, TypeError or AttributeError if the line does not hold one."""
    values = json.loads(line)
    if "began" in values:
        values["started_at"] = values.pop("began")
        seconds = values.get("seconds", {}).items()
        values["seconds"] = {_WORDS_OF_0_1_0.get(kind, kind): spent for kind, spent in seconds}
    session = Session(**values)
    times = (session.started_at, session.until, *session.seconds.values())
    steps = (session.first_step, session.step, session.furthest)
    if not all(isinstance(number, int | float) for number in (*times, *steps)):
        raise TypeError(f"expected numbers, got {session}")
    if not session.seconds.keys() <= set(KINDS):
        raise ValueError(f"expected some of {KINDS}, got {session.seconds}")
    return session


def account(sessions: Sequence[Session]) -> Mapping[str, float]:
    """Seconds of each of `KINDS`; together, all the time from the first start to the last word.

    >>> one = Session(started_at=0.0, until=4.0, seconds={"start": 1.0, "step": 3.0})
    >>> two = Session(started_at=9.0, until=10.0, seconds={"start": 1.0})
    >>> {kind: s for kind, s in account([one, two]).items() if s}
    {'start': 2.0, 'step': 3.0, 'downtime': 5.0}
    """
    totals: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for session in sessions:
        for kind, seconds in session.seconds.items():
            totals[kind] += seconds
    for one, other in itertools.pairwise(sessions):
        totals["downtime"] += max(0.0, other.started_at - one.until)
    return totals


def _line(session: Session) -> str:
    return json.dumps(asdict(session)) + "\n"
