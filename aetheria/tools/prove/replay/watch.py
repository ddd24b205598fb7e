"""What takes the place of disk, listeners and data in a replay: nothing is written into the run."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.data import Feed
from aetheria.data.feed import epoch_order
from aetheria.data.sources import Source, buckets_of
from aetheria.engine import Schedule
from aetheria.engine.interfaces import Chunk, Snapshot
from aetheria.engine.record import SnapshotRecord
from aetheria.events import Progress, SnapshotFailed, SnapshotSaved

_MAX_DUMPS = 3  # as many as a run writes: the guard freezes the state as often


class KeptSnapshot:
    """Snapshot manager that keeps the newest snapshot in memory.

    Attributes:
        newest: the last that was saved; None: none was.
    """

    def __init__(self) -> None:
        self.newest: Snapshot | None = None

    def prepare(self) -> None:
        pass

    def busy(self) -> bool:
        return False

    def save(self, name: str, arrays: Mapping[str, Any], record: SnapshotRecord) -> None:
        host = {path: np.asarray(array) for path, array in arrays.items()}
        self.newest = Snapshot(Path(name), host, record)

    def finished(self, *, wait: bool = False) -> list[SnapshotSaved | SnapshotFailed]:
        return []

    def read_newest(self, up_to_step: int | None = None) -> Snapshot | None:
        return self.newest


class CountedDumps:
    """Dump writer that writes none, and counts as one that does."""

    def __init__(self) -> None:
        self._count = 0

    def has_budget(self) -> bool:
        return self._count < _MAX_DUMPS

    def write(self, step: int, examples_seen: int, arrays: Mapping[str, Any], what: str) -> None:
        self._count += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplaySchedule(Schedule):
    """The schedule of a run up to one of its snapshots, which alone is taken.

    At that step the run may have done less than is due, or more: a stop may have cut its evaluation
    short, and a callback may have completed the run.

    Attributes:
        unevaluated: an evaluation that is due there was cut short.
        untested: so was that of the test split.
        completed: the run was complete there, whatever the length of its schedule.
    """

    unevaluated: bool
    untested: bool
    completed: bool

    @classmethod
    def until(cls, end: SnapshotRecord, schedule: Schedule) -> "ReplaySchedule":
        """The schedule of the run, up to a snapshot with this record."""
        pending = end.engine.pending
        own = {item.name: getattr(schedule, item.name) for item in fields(schedule)}
        own |= {"save_every_steps": 0, "save_every_epochs": 0}
        return cls(
            **{**own, "stop_at_step": end.progress.step},
            unevaluated=pending is not None and not pending.of_test,
            untested=pending is not None and bool(pending.of_test),
            completed=any(name.startswith("test/") for name in end.engine.metrics),
        )

    def is_finished(self, progress: Progress) -> bool:
        # Not super(): a dataclass with slots is made anew, and super() means the first one.
        if progress.step != self.stop_at_step:
            return Schedule.is_finished(self, progress)
        return not self.untested and (self.completed or Schedule.is_finished(self, progress))

    def is_eval_due(self, progress: Progress) -> bool:
        if progress.step != self.stop_at_step:
            return Schedule.is_eval_due(self, progress)
        if self.unevaluated:
            return False
        return Schedule.is_finished(self, progress) or self.is_on_eval_cadence(progress)


class ExamplesRead:
    """The examples that are read for training, by their positions since the start of the run.

    Args:
        has_probe: whether a feed first reads one example to learn its size, which is not recorded.
    """

    def __init__(self, *, has_probe: bool):
        self._has_probe = has_probe
        self._reads: list[tuple[int, np.ndarray]] = []
        self._position, self._probes = 0, has_probe
        self._has_begun = False

    def begin(self, position: int) -> None:
        """What is read from here on begins at `position`."""
        self._position, self._probes, self._has_begun = position, self._has_probe, True

    def add(self, indices: np.ndarray) -> None:
        """The feed reads these examples, i64 [n]."""
        if not self._has_begun or self._probes:
            self._probes = False
            return
        self._reads.append((self._position, np.array(indices)))
        self._position += len(indices)

    def between(self, first: int, last: int) -> np.ndarray:
        """Those of the positions from `first` up to, not including, `last`, i64; -1: not read."""
        taken = np.full(last - first, -1, np.int64)
        for position, indices in self._reads:
            begin, end = max(first, position), min(last, position + len(indices))
            if begin < end:
                taken[begin - first : end - first] = indices[begin - position : end - position]
        return taken


def watched(feed: Feed) -> tuple[Feed, ExamplesRead]:
    """A feed that serves the same, and the record of what it reads for training."""
    train = feed.splits.train
    read = ExamplesRead(has_probe=buckets_of(train) is None)
    splits = replace(feed.splits, train=_WatchedSource(train, read))
    own = {item.name: getattr(feed, item.name) for item in fields(feed)}
    return _WatchedFeed(**{**own, "splits": splits}, read=read), read


@dataclass(frozen=True, kw_only=True)
class _WatchedFeed(Feed):
    read: ExamplesRead

    def train_chunks(
        self, examples_seen: int, max_global_batches: int
    ) -> Generator[Chunk, None, None]:
        self.read.begin(examples_seen)
        return super().train_chunks(examples_seen, max_global_batches)


class _WatchedSource:
    parallel = False  # the record has the order of reads

    def __init__(self, source: Source, read: ExamplesRead):
        self._source, self._read = source, read
        self.in_memory = getattr(source, "in_memory", False)
        self.buckets = buckets_of(source)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        self._read.add(indices)
        return self._source.read(indices)


def expected_examples(seed: int, num_examples: int, first: int, last: int) -> np.ndarray:
    """The examples that a seed puts at the positions from `first` up to, not including, `last`.

    >>> expected_examples(0, 5, 3, 7).tolist()  # the end of an epoch, and the start of the next
    [4, 3, 3, 2]
    """
    epochs = range(first // num_examples, -(-last // num_examples))
    orders = [epoch_order(seed, epoch, num_examples) for epoch in epochs]
    skipped = first - first // num_examples * num_examples
    whole = np.concatenate([np.zeros(0, np.int64), *orders])
    return whole[skipped : skipped + last - first]
