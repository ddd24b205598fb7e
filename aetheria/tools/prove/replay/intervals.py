"""Which intervals of a run are replayed: from one snapshot to the next. Reads records alone."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aetheria.engine.record import ForkedFrom
from aetheria.errors import AetheriaError, SnapshotError
from aetheria.snapshots.finding import find_in_parent
from aetheria.snapshots.retention import SnapshotInfo
from aetheria.snapshots.run_folder import CHECKPOINTS, some, what_is_there
from aetheria.snapshots.store import list_snapshots, read_record


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The steps between two snapshots.

    Attributes:
        start: the snapshot that it begins with; None: the initialization, from the run's seed.
        start_step: its step.
        end: the snapshot that it leads to.
        end_step: its step.
    """

    start: Path | None
    start_step: int
    end: Path
    end_step: int

    @property
    def name(self) -> str:
        """The steps in words: `23 -> 46`."""
        return f"{self.start_step} -> {self.end_step}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which intervals are asked for; none of the fields: the last one.

    Attributes:
        first_step: begin with the snapshot of this step, or with 0.
        last_step: end with the snapshot of this step.
        sample: how many to draw at random; None: all that the steps allow.
        seed: determines which are drawn.
        everything: all intervals of the run.
    """

    first_step: int | None = None
    last_step: int | None = None
    sample: int | None = None
    seed: int = 0
    everything: bool = False

    def of(self, intervals: Sequence[Interval]) -> list[Interval]:
        """The chosen ones, in their order.

        Raises:
            AetheriaError: a step is not that of a snapshot.
        """
        if self.sample is not None:
            count = min(self.sample, len(intervals))
            drawn = random.Random(self.seed).sample(range(len(intervals)), count)
            return [intervals[index] for index in sorted(drawn)]
        if self.everything:
            return list(intervals)
        if self.first_step is None and self.last_step is None:
            return list(intervals[-1:])
        return self._between(intervals)

    def _between(self, intervals: Sequence[Interval]) -> list[Interval]:
        starts = [each.start_step for each in intervals]
        ends = [each.end_step for each in intervals]
        if self.first_step is not None:
            _check_step("--from", self.first_step, starts)
        if self.last_step is not None:
            _check_step("--to", self.last_step, ends)
        last = ends[-1] if self.last_step is None else self.last_step
        if self.first_step is None:
            # The interval that leads to this step; of a step that has two snapshots, both.
            first = max((step for step in starts if step < last), default=last)
        else:
            first = self.first_step
        found = [i for i in intervals if first <= i.start_step and i.end_step <= last]
        if not found:
            raise AetheriaError(
                f"--to: expected a step after that of --from ({first}), got {last}; change one of "
                "them"
            )
        return found


def _check_step(flag: str, step: int, known: Sequence[int]) -> None:
    if step not in known:
        listed = some(str(each) for each in dict.fromkeys(known))
        raise AetheriaError(
            f"{flag}: expected the step of a snapshot, {listed}, got {step}; use one of these"
        )


def read_snapshots(run: Path) -> tuple[list[SnapshotInfo], list[Path]]:
    """The snapshots of a run, the oldest first, and those whose record cannot be read.

    Raises:
        SnapshotError: there is no snapshot.
    """
    infos = list_snapshots(run / CHECKPOINTS)
    if not infos:
        raise SnapshotError(f"{run}: expected a run with snapshots, got none; {_runs_there(run)}")
    return (
        [info for info in infos if info.step is not None],
        [info.path for info in infos if info.step is None],
    )


def all_intervals(infos: Sequence[SnapshotInfo]) -> tuple[list[Interval], list[str]]:
    """The intervals between snapshots, and of each that cannot be replayed, why.

    Args:
        infos: the snapshots of a run whose records can be read, the oldest first.
    """
    intervals, notes = [], []
    if infos:
        before, note = _before_first(infos[0])
        intervals += [] if before is None else [before]
        notes += [] if note is None else [note]
    for one, other in itertools.pairwise(infos):
        assert one.step is not None and other.step is not None, "their records were read"
        intervals.append(
            Interval(start=one.path, start_step=one.step, end=other.path, end_step=other.step)
        )
    return intervals, notes


def _before_first(info: SnapshotInfo) -> tuple[Interval | None, str | None]:
    """The interval that leads to the first snapshot, or why there is none."""
    assert info.step is not None, "its record was read"
    lineage = read_record(info.path).run.lineage
    if lineage is None:
        return Interval(start=None, start_step=0, end=info.path, end_step=info.step), None
    if not isinstance(lineage, ForkedFrom):
        return None, (
            f"that leads to {info.path.name} from the weights of {lineage.file}, which the run "
            "folder does not hold"
        )
    path = find_in_parent(Path(lineage.run), lineage.snapshot)
    if path is not None:
        start_step = lineage.step
        return Interval(start=path, start_step=start_step, end=info.path, end_step=info.step), None
    return None, (
        f"that leads to {info.path.name} from {lineage.snapshot} of {lineage.run}, which is not "
        "there"
    )


def _runs_there(folder: Path) -> str:
    from aetheria.training.run_info import find_runs

    below = [str(run) for run in itertools.islice(find_runs(folder), 20) if run != folder]
    return f"name one of the runs in it: {some(below)}" if below else what_is_there(folder)
