"""Where a run stands, in host values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aetheria.engine.evaluation import Evaluation
from aetheria.engine.record import (
    EngineRecord,
    PendingEvaluation,
    RunRecord,
    SnapshotRecord,
    Sums,
)
from aetheria.engine.typed_json import JsonObject
from aetheria.events import Progress


@dataclass(kw_only=True)
class RunState:
    """What the engine knows of a run.

    Attributes:
        progress: the counters, as far as steps are dispatched.
        metrics: the last known values, `train/loss` and `eval/loss` style names.
        num_eval_examples: how many the last evaluation counted; None: there was none.
        eval_step: the step of the last evaluation; None: there was none.
        saved_step: the step of the last snapshot that was taken or restored; None: there is none,
            or one at that step is to be written again.
        pending: an evaluation at this step that a stop cut short; None: none was.
    """

    progress: Progress = field(default_factory=Progress)
    metrics: dict[str, float] = field(default_factory=dict)
    num_eval_examples: int | None = None
    eval_step: int | None = None
    saved_step: int | None = None
    pending: PendingEvaluation | None = None

    @property
    def replays(self) -> bool:
        """Whether what was logged at this step is emitted again, before its evaluation is."""
        return self.pending is not None and not self.pending.of_test

    def add_evaluation(self, done: Mapping[str, Evaluation]) -> None:
        """Takes the results of the evaluation splits; `eval/…` is that of the first."""
        first = next(iter(done.values()))
        self.num_eval_examples, self.eval_step = first.num_examples, self.progress.step
        self._add("eval", first)
        self.add_results(done)

    def add_results(self, done: Mapping[str, Evaluation]) -> None:
        """Takes the results of splits, each under its own name."""
        for split, each in done.items():
            self._add(split, each)

    def forget_test(self) -> None:
        """Drops the metrics of the test split."""
        self.metrics = {n: v for n, v in self.metrics.items() if not n.startswith("test/")}

    def _add(self, split: str, done: Evaluation) -> None:
        self.metrics |= {f"{split}/{name}": value for name, value in done.metrics.items()}

    def record(
        self,
        run: RunRecord,
        *,
        num_skipped: int = 0,
        interval: Mapping[str, Sums] | None = None,
        epoch: Mapping[str, Sums] | None = None,
        passed_check: int | None = None,
        listeners: JsonObject | None = None,
    ) -> SnapshotRecord:
        """Makes the record of a snapshot that is taken now.

        Args:
            run: what it says of the run.
            num_skipped: global batches that the guard has skipped.
            interval: metric -> sums over the steps since the last log; None: no step since.
            epoch: metric -> what to add to these for the sums of the epoch; None: nothing.
            passed_check: the last step whose state has passed a spot check; None: none has.
            listeners: their states, by name.
        """
        return SnapshotRecord(
            progress=self.progress,
            engine=EngineRecord(
                metrics=dict(self.metrics),
                num_eval_examples=self.num_eval_examples,
                eval_step=self.eval_step,
                num_skipped=num_skipped,
                pending=self.pending,
                interval=interval,
                epoch=epoch,
                passed_check=passed_check,
            ),
            listeners=listeners or {},
            run=run,
        )

    @classmethod
    def from_record(cls, record: SnapshotRecord) -> "RunState":
        """Where the run stood when the snapshot was taken."""
        return cls(
            progress=record.progress,
            metrics=dict(record.engine.metrics),
            num_eval_examples=record.engine.num_eval_examples,
            eval_step=record.engine.eval_step,
            saved_step=record.progress.step,
            pending=record.engine.pending,
        )
