"""Which snapshots stay on disk: a pure decision over what is known of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of a snapshot without reading its arrays.

    Attributes:
        path: its folder.
        step: the step it was taken at; larger than any other if its record cannot be read.
        metrics: what an evaluation at that very step found; empty if there was none.
    """

    path: Path
    step: int
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, path: Path, record: Mapping[str, Any]) -> "SnapshotInfo":
        step, engine = int(record["progress"]["step"]), record["engine"]
        return cls(path, step, dict(engine["metrics"]) if engine["eval_step"] == step else {})


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Keeps the newest, the best, and some for ever.

    Attributes:
        keep_last: how many of the newest steps stay, at least 1.
        keep_best: how many of the best by `monitor` stay.
        keep_every_steps: those of steps that it divides stay for ever; 0: none.
        monitor: the metric that says which is best.
        mode: `min` or `max`.
    """

    keep_last: int = 10
    keep_best: int = 1
    keep_every_steps: int = 0
    monitor: str = "eval/loss"
    mode: str = "min"

    def best(self, infos: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
        """Those that have a finite monitored value, best first; of equals the earlier step."""
        sign = 1 if self.mode == "min" else -1
        scored = [info for info in infos if math.isfinite(info.metrics.get(self.monitor, math.nan))]
        return sorted(scored, key=lambda info: (sign * info.metrics[self.monitor], info.step))

    def expired(self, infos: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
        """Those that are neither among the newest nor among the best nor kept for ever."""
        newest = sorted(infos, key=lambda info: info.step)[-self.keep_last :]
        kept = {info.path for info in [*newest, *self.best(infos)[: self.keep_best]]}
        if self.keep_every_steps:
            kept |= {info.path for info in infos if info.step % self.keep_every_steps == 0}
        return [info for info in infos if info.path not in kept]
