"""Whether the records of a run agree with each other: its config changes where a process starts,
and nowhere else. Computes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from aetheria.config.files import BESIDE_CONFIG, RUN_CONFIG
from aetheria.engine.record import RunRecord
from aetheria.errors import SnapshotError
from aetheria.observe.goodput import Session, read_goodput
from aetheria.snapshots.changes import Change
from aetheria.snapshots.config_diff import config_changes, with_all_keys
from aetheria.snapshots.retention import SnapshotInfo
from aetheria.snapshots.store import read_record
from aetheria.tools.prove.replay.differences import Difference
from aetheria.tools.prove.replay.intervals import Interval
from aetheria.training.run_info import read_object


class History:
    """The processes of a run, as far as `goodput.jsonl` says.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path):
        self._run_dir = run_dir
        self._sessions: Sequence[Session] = read_goodput(run_dir)

    def changes(
        self, intervals: Sequence[Interval], newest: SnapshotInfo
    ) -> Iterator[str | Difference]:
        """The changes of what the run computes with, between the two snapshots of each interval and
        from the newest snapshot to `config.json`: a line where a process started there, or where
        nothing is known of processes; else a difference.
        """
        for interval in intervals:
            if interval.start is not None and interval.start.parent == interval.end.parent:
                yield from self._between(interval)
        yield from self._in_config(newest)

    def starts_within(self, interval: Interval) -> list[int]:
        """The steps between two snapshots at which a process started."""
        first, last = interval.start_step, interval.end_step
        return [s.first_step for s in self._sessions if first < s.first_step < last]

    def _between(self, interval: Interval) -> Iterator[str | Difference]:
        assert interval.start is not None, "the caller looks"
        try:
            old, new = (read_record(path).run for path in (interval.start, interval.end))
        except SnapshotError:
            return  # the replay names what is damaged
        span = (interval.start_step, interval.end_step)
        what = f"from {interval.start.name} to {interval.end.name}"
        yield from self._judge(_changes(old, new), span, what)

    def _in_config(self, newest: SnapshotInfo) -> Iterator[str | Difference]:
        """Compares `config.json`, which the last process wrote, with the newest snapshot."""
        said = read_object(self._run_dir / RUN_CONFIG, [])
        config = {key: value for key, value in said.items() if key not in BESIDE_CONFIG}
        if not config or newest.step is None:
            return
        record = read_record(newest.path).run
        span = (newest.step, 2**31)
        what = f"from {newest.path.name} to {RUN_CONFIG}"
        said_now = replace(record, config=config)
        yield from self._judge(_changes(record, said_now), span, what)

    def _judge(
        self, changes: Iterable[Change], span: tuple[int, int], what: str
    ) -> Iterator[str | Difference]:
        first, last = span
        # What starts at the end of an interval decides what follows it.
        starts = [each.first_step for each in self._sessions]
        explained = not starts or any(first <= s < max(last, first + 1) for s in starts)
        for change in changes:
            detail = f"{change.before} -> {change.now}, {what}"
            if explained:
                yield f"the run was resumed with another config: {change.path}: {detail}"
            else:
                detail += ", and no process started there"
                yield Difference(what=f"record: {change.path}", step=first, detail=detail)


def _changes(before: RunRecord, now: RunRecord) -> list[Change]:
    """What differs in the configs as they are written, and in the arguments as the code resolved
    them, but for what changes no number.
    """
    now = with_all_keys(now)
    written = (replace(record, resolved=None) for record in (before, now))
    changes = [*config_changes(*written), *config_changes(before, now)]
    return list({each.path: each for each in changes if each.kind != "free"}.values())
