"""Vocabulary: what the engine says while a run goes on.

Events are frozen and hold host values only: no array, no state, no engine. A listener that keeps
one for ever can neither change the run nor hold its memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands, in the three counters every part of Aetheria uses.

    Attributes:
        step: optimizer steps taken (a skipped window counts: its data is consumed).
        micro_step: forward-backward passes, `step * grad_accumulation_steps`.
        examples_seen: real training examples consumed; this alone is the data position.
        epoch: the epoch of the last step, counted from 1; 0 before the first step.
    """

    step: int = 0
    micro_step: int = 0
    examples_seen: int = 0
    epoch: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StallTime:
    """What the training loop of this process has waited for so far.

    Attributes:
        data_seconds: for the next training examples.
        compile_seconds: in the first call of each step, which traces and compiles it.
    """

    data_seconds: float = 0.0
    compile_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _TakenUp:
    """The run goes on from `progress`.

    Attributes:
        progress: where.
        replays: the run was stopped in the evaluation at that step: what was told of the step
            is told again.
    """

    progress: Progress
    replays: bool = False

    @property
    def last_logged(self) -> int:
        """The step after which everything is yet to be told."""
        return self.progress.step - self.replays


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted(_TakenUp):
    """The first event of every process. `progress.step` is 0, or the step resumed from."""

    total_steps: int
    steps_per_epoch: int
    resumed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainMetrics:
    """The log cadence was reached; `metrics` are those of the window at `progress.step`."""

    progress: Progress
    metrics: Mapping[str, float]
    steps_per_second: float
    stalls: StallTime = StallTime()


@dataclass(frozen=True, kw_only=True, slots=True)
class NonFiniteDetected:
    """The guard left the state alone in `num_skipped` windows since the last report.

    Attributes:
        what: what was not finite in the last of them: `loss or gradient`, or `update or model
            state` where loss and gradient were.
        dump: where the last of these windows is kept, for `aetheria debug nan`; None: nowhere.
    """

    progress: Progress
    num_skipped: int
    num_skipped_total: int
    consecutive: int
    last_skipped_step: int
    dump: str | None = None
    what: str = "loss or gradient"


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack(_TakenUp):
    """The run is back where a snapshot was taken, and so are the listeners that have a state; what
    was told of later steps will be told again.

    Attributes:
        from_step: how far the run had come.
        snapshot: the name of the one it is back at.
    """

    from_step: int
    snapshot: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationCompleted:
    """One pass over the evaluation split; padding is masked out of `metrics` and the count.

    Attributes:
        num_nonfinite_batches: batches whose loss is not finite; so the whole loss is not either.
        num_nonfinite_examples: the examples in them.
        first_nonfinite: which the first of them is, in words.
    """

    progress: Progress
    metrics: Mapping[str, float]
    num_examples: int
    seconds: float
    num_nonfinite_batches: int = 0
    num_nonfinite_examples: int = 0
    first_nonfinite: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotSaved:
    """A snapshot is complete on disk, digests included."""

    name: str
    step: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotFailed:
    """A save did not succeed; the run goes on and earlier snapshots stay."""

    name: str
    step: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseChanged:
    """The engine moved along one edge of its transition table."""

    progress: Progress
    source: str
    target: str
    stalls: StallTime = StallTime()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnded:
    """The last event. `status` is one of completed, preempted, halted, failed."""

    progress: Progress
    status: str
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict)


Event = (
    RunStarted
    | TrainMetrics
    | NonFiniteDetected
    | RolledBack
    | EvaluationCompleted
    | SnapshotSaved
    | SnapshotFailed
    | PhaseChanged
    | RunEnded
)
