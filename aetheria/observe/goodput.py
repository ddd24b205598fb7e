"""Goodput: how much of a run's time went into new steps, over all its restarts, and into what else.

The record is `goodput.jsonl` in the run folder, with one line for each process of the run.
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aetheria.events import (
    Event,
    PhaseChanged,
    RolledBack,
    RunEnded,
    RunStarted,
    StallTime,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.retrying_file import RetryingFile

GOODPUT_FILE = "goodput.jsonl"
# Version 0.1.0 used another file name, and `began`, `replayed` and `down` for three of the names.
_FILE_OF_0_1_0 = "ledger.jsonl"
_KINDS_OF_0_1_0 = {"replayed": "recomputed", "down": "downtime"}
# In the order of the report. Every second of a process belongs to one of the first seven.
KINDS = ("start", "compile", "data", "step", "evaluation", "snapshot", "recomputed", "downtime")
_KIND_OF_PHASE = {"starting": "start", "training": "step", "evaluating": "evaluation"}
_WRITE_SECONDS = 5.0  # a kill loses at most that much of the record
_RecordedEvent = RunStarted | PhaseChanged | TrainMetrics | RolledBack | RunEnded


@dataclass(kw_only=True)
class Session:
    """One process of a run, from its start to its last record.

    Attributes:
        started_at: seconds since the epoch.
        until: the time of the last record, likewise.
        first_step: the step at which it started or resumed.
        step: the step it reached.
        furthest: the furthest step that it or an earlier process reached; steps up to there are
            recomputed.
        status: how the run ended; `running` if there is no record of its end: the process still
            runs, or was killed.
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
    """Observer: assigns the time between two events to what the run did in it."""

    def __init__(self, context: RunContext):
        self._path, self._started_at = context.run_dir / GOODPUT_FILE, context.started_at
        self._file: RetryingFile | None = None
        self._phase, self._stalls = "starting", StallTime()

    def notify(self, event: Event) -> None:
        """Adds the time since the last event to the record."""
        if isinstance(event, RunStarted):
            self._open(event)
        if self._file is None:
            return  # a run that fails before it starts has no folder
        if not isinstance(event, _RecordedEvent):
            return
        if isinstance(event, RolledBack):
            self._session.furthest = max(self._session.furthest, event.from_step)
            self._session.step = event.progress.step
        self._add_time_until(event)
        if isinstance(event, PhaseChanged):
            self._phase = event.target
        if isinstance(event, RunEnded):
            self._session.status = event.status
        is_start_or_end = isinstance(event, (RunStarted, RunEnded))
        if is_start_or_end or self._session.until - self._written_until > _WRITE_SECONDS:
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
        # One line is enough for each earlier process. If the disk has no room for the shorter
        # file, all lines stay, except for one that a kill left half written.
        if not self._file.set_content("".join(_line(session) for session in earlier).encode()):
            content = self._file.content()
            self._file.set_content(content[: content.rfind(b"\n") + 1])

    def _add_time_until(self, event: _RecordedEvent) -> None:
        """Assigns the time from the last event to `event`."""
        session, now = self._session, time.time()
        spent = max(0.0, now - session.until)  # the system's clock may be set back
        session.until = max(now, session.until)
        data, compiling = self._stalled_until(event)
        # The stalls are measured with another clock: they must not be more than there was.
        compiling = min(compiling, spent)
        data = min(data, spent - compiling)
        kind = _KIND_OF_PHASE.get(self._phase, "snapshot")  # a run ends by waiting for a save
        recomputed = 0.0 if kind == "start" else self._recomputed_fraction(event.progress.step)
        self._add("compile", compiling)
        self._add("data", data * (1 - recomputed))
        self._add(kind, (spent - compiling - data) * (1 - recomputed))
        self._add("recomputed", (spent - compiling) * recomputed)

    def _stalled_until(self, event: _RecordedEvent) -> tuple[float, float]:
        """The seconds stalled on data and on the compiler since the last event that counts them."""
        if not isinstance(event, (PhaseChanged, TrainMetrics)):
            return 0.0, 0.0
        before, self._stalls = self._stalls, event.stalls
        return (
            self._stalls.data_seconds - before.data_seconds,
            self._stalls.compile_seconds - before.compile_seconds,
        )

    def _recomputed_fraction(self, step: int) -> float:
        """The fraction of the time since the last event that went into recomputed steps."""
        session, before = self._session, self._session.step
        furthest, session.furthest = session.furthest, max(session.furthest, step)
        session.step = max(before, step)
        if step <= before:
            return 1.0 if step < furthest else 0.0
        return max(0.0, min(step, furthest) - before) / (step - before)

    def _add(self, kind: str, seconds: float) -> None:
        self._session.seconds[kind] = self._session.seconds.get(kind, 0.0) + seconds

    def _write(self) -> None:
        assert self._file is not None, "RunStarted comes first"
        self._file.write(_line(self._session).encode())
        self._file.flush()
        self._written_until = self._session.until


def read_goodput(run_dir: Path) -> list[Session]:
    """The processes of a run, in the order of their starts; lines that are damaged are left out."""
    sessions: dict[float, Session] = {}  # a process writes many lines, of which the last one counts
    for line in [*_lines(run_dir / _FILE_OF_0_1_0), *_lines(run_dir / GOODPUT_FILE)]:
        try:
            session = _session(line)
        except (ValueError, TypeError, AttributeError):
            continue  # a kill or a crash left this line
        sessions[session.started_at] = session
    return [sessions[started_at] for started_at in sorted(sessions)]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _session(line: str) -> Session:
    """Reads a line; raises ValueError, TypeError or AttributeError if it is not a session."""
    values = json.loads(line)
    if "began" in values:
        values["started_at"] = values.pop("began")
        seconds = values.get("seconds", {}).items()
        values["seconds"] = {_KINDS_OF_0_1_0.get(kind, kind): spent for kind, spent in seconds}
    session = Session(**values)
    times = (session.started_at, session.until, *session.seconds.values())
    steps = (session.first_step, session.step, session.furthest)
    if not all(isinstance(number, int | float) for number in (*times, *steps)):
        raise TypeError(f"expected numbers, got {session}")
    if not session.seconds.keys() <= set(KINDS):
        raise ValueError(f"expected some of {KINDS}, got {session.seconds}")
    return session


def account(sessions: Sequence[Session]) -> Mapping[str, float]:
    """The seconds of each of `KINDS`, from the first start of a process to the last record.

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
