"""Which snapshots stay on disk: a pure decision over what is known of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aetheria.engine.record import SnapshotRecord


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of a snapshot without reading its arrays.

    Attributes:
        path: its folder.
        step: the step it was taken at; None: its record cannot be read.
        metrics: what an evaluation at that very step found; empty if there was none.
    """

    path: Path
    step: int | None
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, path: Path, record: SnapshotRecord) -> "SnapshotInfo":
        return cls(path, record.progress.step, record.evaluated)

    @property
    def age_rank(self) -> tuple[bool, int]:
        """Sorts by age, the oldest first.

        A snapshot that cannot be read counts as the newest, so that it is tried and found to be
        damaged rather than overlooked.
        """
        return self.step is None, self.step or 0


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Keeps the newest, the best, and some for good.

    Attributes:
        keep_last: how many of the newest steps stay, at least 1.
        keep_best: how many of the best by `monitor` stay.
        keep_every_steps: snapshots of steps that it divides stay for good; 0: none.
        monitor: the metric that says which is best.
        mode: `min` or `max`.
    """

    keep_last: int = 10
    keep_best: int = 1
    keep_every_steps: int = 0
    monitor: str = "eval/loss"
    mode: str = "min"

    def best(self, infos: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
        """Snapshots with a finite monitored value, best first; of equals the earlier step."""
        sign = 1 if self.mode == "min" else -1
        scored = [info for info in infos if math.isfinite(info.metrics.get(self.monitor, math.nan))]
        return sorted(scored, key=lambda info: (sign * info.metrics[self.monitor], info.age_rank))

    def select(self, infos: Sequence[SnapshotInfo], which: str) -> list[SnapshotInfo]:
        """The snapshots that `latest`, `best` or a step stands for, the first choice first.

        Args:
            infos: in the order of age, the oldest first.
            which: the word, or the number of a step.
        """
        if which == "best":
            return self.best(infos)
        newest_first = list(reversed(infos))
        if which == "latest":
            return newest_first
        return [info for info in newest_first if which.isdigit() and info.step == int(which)]

    def expired(self, infos: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
        """Snapshots that are neither among the newest nor among the best nor kept for good."""
        newest = sorted(infos, key=lambda info: info.age_rank)[-self.keep_last :]
        kept = {info.path for info in [*newest, *self.best(infos)[: self.keep_best]]}
        return [info for info in infos if info.path not in kept and not self._stays(info)]

    def _stays(self, info: SnapshotInfo) -> bool:
        every = self.keep_every_steps
        return every > 0 and info.step is not None and info.step % every == 0
