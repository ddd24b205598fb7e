"""Where a run stands, in host values, and how a snapshot's record spells it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aetheria.events import Progress, progress_from


@dataclass(kw_only=True)
class RunState:
    """What the engine knows of a run.

    Attributes:
        progress: the counters, as far as is dispatched.
        metrics: the last known values, `train/loss` and `eval/loss` style names.
        num_eval_examples: of the last evaluation.
        eval_step: when it was; -1: never.
        saved_step: when a snapshot was last taken, or restored; -1: never.
        pending: an evaluation at this step was left for a stop, and what had been told of the step:
            `metrics` and `steps_per_second`, or nothing; None: no evaluation was.
    """

    progress: Progress = field(default_factory=Progress)
    metrics: dict[str, float] = field(default_factory=dict)
    num_eval_examples: int = 0
    eval_step: int = -1
    saved_step: int = -1
    pending: Mapping[str, Any] | None = None

    def record(
        self,
        num_skipped: int,
        interval: Mapping[str, Sequence[float]],
        listeners: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The engine's part of a snapshot's record: JSON values.

        Args:
            num_skipped: windows that the guard has skipped.
            interval: metric -> [sum, weight], over the steps since the last report.
            listeners: their states, by name.
        """
        return {
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
            "engine": {
                "metrics": self.metrics,
                "num_eval_examples": self.num_eval_examples,
                "eval_step": self.eval_step,
                "num_skipped": num_skipped,
                "pending": self.pending,
                "interval": interval,
            },
            "listeners": listeners,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "RunState":
        """The inverse of `record`."""
        progress, engine = progress_from(record["progress"]), record["engine"]
        return cls(
            progress=progress,
            metrics=dict(engine["metrics"]),
            num_eval_examples=engine["num_eval_examples"],
            eval_step=engine["eval_step"],
            saved_step=progress.step,
            pending=engine.get("pending"),
        )
