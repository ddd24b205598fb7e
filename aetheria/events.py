"""The vocabulary of events: what the engine emits during a run.

Events are frozen and hold host values only: no array, no state, no engine. A listener that keeps
an event for ever can neither change the run nor keep its memory alive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is, in the counters that every part of Aetheria uses.

    Attributes:
        step: optimizer steps taken. A skipped global batch counts: its data is consumed.
        micro_step: forward-backward passes, `step * grad_accumulation_steps`.
        examples_seen: training examples consumed, without padding. This number alone is the
            position in the data.
        epoch: the epoch of the last step, counted from 1; 0 before the first step.
    """

    step: int = 0
    micro_step: int = 0
    examples_seen: int = 0
    epoch: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StallTime:
    """How long the training loop of this process has waited so far.

    Attributes:
        data_seconds: for the next training examples.
        compile_seconds: for the first call of each step function, which traces and compiles it.
    """

    data_seconds: float = 0.0
    compile_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _ContinuesFrom:
    """The run continues from `progress`.

    Attributes:
        progress: where the run continues.
        replays: whether the engine emits the metrics of the step at `progress` again. It does if
            the run was stopped while it evaluated at that step.
    """

    progress: Progress
    replays: bool = False

    @property
    def last_logged_step(self) -> int:
        """The last step whose events are not emitted again; a logger drops what is later."""
        return self.progress.step - 1 if self.replays else self.progress.step


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted(_ContinuesFrom):
    """The first event of every process. `progress.step` is 0, or the step resumed from.

    Attributes:
        total_steps: the step at which the run will be complete.
        steps_per_epoch: optimizer steps in one pass over the training split.
        resumed: whether the run continues from a snapshot.
    """

    total_steps: int
    steps_per_epoch: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the elements of some arrays are distributed.

    Attributes:
        edges: of the bins, rising; one more than there are bins.
        counts: how many elements are in each bin.
    """

    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainMetrics:
    """The metrics of training, emitted at the log cadence.

    Attributes:
        progress: after the last step that the metrics cover.
        metrics: weighted means over the steps since the log cadence was last reached; a step whose
            global batch was skipped is left out. With `layer_statistics.depth`, also norms of each
            layer, such as `layers/Dense_0/grad_norm`, of the last step alone.
        steps_per_second: the rate of training since the previous such event; evaluation and saves
            do not count.
        stalls: how long the training loop has waited since the process started.
        examples_per_second: likewise of training, without padding.
        hyperparameters: those of the last update that the optimizer tells, such as
            `learning_rate`.
        tokens_per_second: likewise, where `inputs` are tokens; None: they are not.
        mfu: model FLOPs utilization, the share of the devices' peak that the model's matrix
            products and convolutions take at this rate; None: the peak is not known.
        memory_bytes: what is in use on the fullest device of this process; None: devices do not
            report it.
        peak_memory_bytes: the most that was in use, likewise.
        data_wait_fraction: the share of the time since the previous such event in which the loop
            waited for data, 0 to 1; None: not measured.
        histograms: with `layer_statistics.histograms`, of each layer's gradient and update in the
            last step, such as `gradients/Dense_0`.
    """

    progress: Progress
    metrics: Mapping[str, float]
    steps_per_second: float
    stalls: StallTime = StallTime()
    examples_per_second: float = 0.0
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None
    mfu: float | None = None
    memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    data_wait_fraction: float | None = None
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class NonFiniteDetected:
    """The guard skipped global batches whose loss, gradient or update is not finite.

    Attributes:
        progress: where the run is.
        num_skipped: global batches skipped since the last such event.
        num_skipped_total: global batches skipped in the whole run.
        consecutive: global batches skipped in a row, up to now.
        last_skipped_step: the step of the last skipped global batch.
        dump: the path of the dump of that global batch, for `aetheria debug nan`; None: there is
            no dump.
        what: what was not finite in that global batch: `loss or gradient`, or `update or model
            state` where loss and gradient were finite.
    """

    progress: Progress
    num_skipped: int
    num_skipped_total: int
    consecutive: int
    last_skipped_step: int
    dump: str | None = None
    what: str = "loss or gradient"


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A device that computed wrong, or may have.

    Attributes:
        device: its name, such as `cuda:3`.
        process: the index of its process.
        host: the name of that process's host.
    """

    device: str
    process: int
    host: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SpotCheckFailed:
    """A device computed other bits than another one did of the same.

    What was computed wrong has not entered the run: the check comes before the step is taken.

    Attributes:
        progress: where the run is, before the step at which the check failed.
        what: differs: `the gradient of lane 3`, or `the state` of a device.
        suspects: the devices that were wrong.
        is_decided: whether a majority of the devices says so; else `suspects` are all that may have
            been wrong.
        action: what follows: `report`, the step is taken again; `halt`; `rollback`.
    """

    progress: Progress
    what: str
    suspects: tuple[Suspect, ...]
    is_decided: bool
    action: str

    @property
    def description(self) -> str:
        """Which device was wrong, in words."""
        names = [f"{s.device} of process {s.process} on {s.host}" for s in self.suspects]
        if self.is_decided:
            return f"{self.what} was wrong on {' and '.join(names)}"
        return f"{self.what} may be wrong on each of {', '.join(names)}: there is no majority"


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack(_ContinuesFrom):
    """The run went back to a snapshot.

    The listeners that have a state are back at that snapshot too. The events of later steps will
    be emitted again.

    Attributes:
        from_step: the step that the run had reached.
        snapshot: the name of the snapshot.
    """

    from_step: int
    snapshot: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationCompleted:
    """The result of one pass over a split that is not trained on.

    A run with several evaluation splits emits one such event for each of them, after all have been
    evaluated.

    Attributes:
        progress: where the run is.
        metrics: weighted means over the whole split; padding is masked out.
        num_examples: examples evaluated, without padding.
        seconds: how long the pass took.
        num_nonfinite_batches: batches whose loss is not finite. If there are any, the loss in
            `metrics` is not finite either.
        num_nonfinite_examples: the examples in those batches.
        first_nonfinite: a description of the first of those batches; empty: there is none.
        split: `eval`; of several evaluation splits `eval/<name>`; `test` for the test split, which
            is evaluated when the run completes. `<split>/<metric>` is the name of a metric.
    """

    progress: Progress
    metrics: Mapping[str, float]
    num_examples: int
    seconds: float
    num_nonfinite_batches: int = 0
    num_nonfinite_examples: int = 0
    first_nonfinite: str = ""
    split: str = "eval"


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotSaved:
    """A snapshot is complete on disk, digests included.

    Attributes:
        name: of its folder in `checkpoints/`, such as `snapshot_ep3`.
        step: the step after which it was taken.
        size_bytes: its size on disk.
        seconds: how long the save took; training continued meanwhile.
    """

    name: str
    step: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotFailed:
    """A save failed. The run continues, and earlier snapshots stay.

    Attributes:
        name: what the snapshot would have been called.
        step: the step after which it was taken.
        reason: the error, in one line.
    """

    name: str
    step: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseChanged:
    """The engine went from the phase `source` to the phase `target`.

    Attributes:
        progress: where the run is.
        source: the phase that ended.
        target: the phase that begins.
        stalls: how long the training loop has waited since the process started.
    """

    progress: Progress
    source: str
    target: str
    stalls: StallTime = StallTime()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnded:
    """The last event.

    Attributes:
        progress: where the run ended.
        status: one of completed, preempted, halted, failed.
        reason: why it ended, in words.
        metrics: the last values of all metrics, such as `train/loss` and `eval/loss`.
    """

    progress: Progress
    status: str
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict)


Event = (
    RunStarted
    | TrainMetrics
    | NonFiniteDetected
    | SpotCheckFailed
    | RolledBack
    | EvaluationCompleted
    | SnapshotSaved
    | SnapshotFailed
    | PhaseChanged
    | RunEnded
)
