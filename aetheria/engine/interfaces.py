"""What the engine asks of the other rooms, as Protocols. Plain Python; imports the events and the
snapshot's record alone.

`State`, `Report` and `Totals` are type variables: the engine passes values of these types from one
call to the next and never looks inside, so that a JAX and a PyTorch program serve it alike, while
the type checker still sees that they are not mixed up.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from aetheria.engine.record import SnapshotRecord
from aetheria.events import Event, Histogram, SnapshotFailed, SnapshotSaved

State = TypeVar("State")
Report = TypeVar("Report")
Totals = TypeVar("Totals")

# What the guard may find non-finite in a global batch.
LOSS_OR_GRADIENT, UPDATE_OR_STATE = "loss or gradient", "update or model state"


class Chunk(NamedTuple):
    """Consecutive global batches; a global batch is the data of one optimizer step.

    Attributes:
        arrays: column name -> [num_global_batches, num_slices, slice_size, ...], with a `mask`
            column f32 that is 1 for an example and 0 for padding.
        num_examples: real examples in each global batch. Shorter than `num_global_batches` where an
            epoch ends inside the chunk; the rows beyond are no data and are never trained on.
    """

    arrays: Mapping[str, Any]
    num_examples: Sequence[int]


class GuardCounters(NamedTuple):
    """What the guard inside the step has counted, on the device, up to `step`.

    Attributes:
        step: steps taken.
        num_skipped: global batches skipped.
        consecutive_skips: those in a row, up to this step.
        last_skipped_step: the last of them; 0 for none.
        frozen_step: the non-finite global batch at which the state froze, until the host unfreezes
            it; 0: it is not frozen.
        what: what was not finite in the last global batch skipped.
        failed_check: whether the state froze before the next step, at which a spot check failed.
    """

    step: int
    num_skipped: int
    consecutive_skips: int
    last_skipped_step: int
    frozen_step: int = 0
    what: str = LOSS_OR_GRADIENT
    failed_check: bool = False

    @classmethod
    def of(cls, counters: Sequence[int]) -> "GuardCounters":
        """Reads them as the step packs them: the last step skipped is negative where its loss and
        gradient were finite.

        >>> GuardCounters.of([7, 1, 1, -7, 7, 0]).what
        'update or model state'
        """
        step, num_skipped, consecutive, last, frozen, _ = counters
        what = UPDATE_OR_STATE if last < 0 else LOSS_OR_GRADIENT
        if frozen < 0:
            return cls(-frozen - 1, num_skipped, consecutive, abs(last), 0, what, True)
        return cls(step, num_skipped, consecutive, abs(last), frozen, what)


class ArraySpec(NamedTuple):
    """The shape of an array, and the name of its dtype."""

    shape: tuple[int, ...]
    dtype: str


class DeviceMemory(NamedTuple):
    """Bytes on a device: in use now, and at most since the process started."""

    bytes_in_use: int
    peak_bytes: int


class HostReport(NamedTuple):
    """A fetched report.

    Attributes:
        metrics: weighted means; of training, over the steps of the interval that changed anything.
        num_examples: of an evaluation: how many examples they rest on.
        guard: of training: the guard's counters.
        sums: of training: what the means are made of, name -> [sum, weight], JSON values.
        latest: of training: metrics that are no mean, but the value after the last step.
        layers: of a step that is logged: metrics of each layer, of that step alone.
        histograms: of a step that is logged: histograms of each layer.
    """

    metrics: Mapping[str, float]
    num_examples: int | None
    guard: GuardCounters | None
    sums: Mapping[str, Sequence[float]] = {}
    latest: Sequence[str] = ()
    layers: Mapping[str, float] = {}
    histograms: Mapping[str, Histogram] = {}


class Program(Protocol[State, Report, Totals]):
    """What a strategy compiles: one model for one set of devices."""

    @property
    def steps_per_call(self) -> int:
        """How many steps one call should be offered: several where dispatching each step on its own
        would take a share of its time.
        """
        ...

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """What an evaluation reports, `eval/loss` style names; known before anything compiles."""
        ...

    @property
    def optimizer(self) -> Any:
        """The model's optimizer, made once a program; the engine does not look at it."""
        ...

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        ...

    @property
    def params(self) -> Mapping[str, ArraySpec]:
        """The path of every parameter -> its shape and dtype."""
        ...

    @property
    def num_compilations(self) -> dict[str, int]:
        """How many times each step was compiled: 1, or a shape is not constant."""
        ...

    def mfu(self, steps_per_second: float) -> float | None:
        """Model FLOPs utilization at that rate: the share of the peak of all devices that the
        model's matrix products and convolutions take; None: not known. Does not wait.
        """
        ...

    def memory(self) -> DeviceMemory | None:
        """Of the fullest device of this process; None: devices do not report it. Does not wait."""
        ...

    def loop_context(self) -> AbstractContextManager[None]:
        """Around each call of a step: an implicit transfer between host and device, which would
        wait for the device in every step, is an error there. Not around what reads data or listens,
        where a user's code runs.
        """
        ...

    def init(self) -> State:
        """Makes the state of step 0."""
        ...

    def train_steps(
        self,
        state: State,
        arrays: Mapping[str, Any],
        start: int,
        count: int,
        since: Report | None = None,
    ) -> tuple[State, Report]:
        """Takes one optimizer step on each of `count` global batches of a chunk, from `start` on.

        Does not wait for the device to reach it; it may wait for an earlier call, so that the host
        is never far ahead.

        Args:
            state: used up.
            arrays: a chunk's.
            start: the first global batch to train on.
            count: how many.
            since: the report of the steps before, to which these are added.

        Returns:
            The new state, and a report of these steps and of those that `since` reports: the same
            however the steps are cut into calls.
        """
        ...

    def import_report(self, sums: Mapping[str, Sequence[float]]) -> Report:
        """A report to add to, made of the sums of a fetched one."""
        ...

    def eval_step(self, state: State, batch: Mapping[str, Any], totals: Totals | None) -> Totals:
        """Adds one batch to the running totals (None starts them); does not wait."""
        ...

    def fetch(self, report: Report | Totals) -> HostReport:
        """Waits for a report or for totals. The only host sync; at log cadence, never per step."""
        ...

    def export_state(self, state: State) -> Mapping[str, Any]:
        """Copies the whole state, leaf path -> array; safe from later donation."""
        ...

    def import_state(self, arrays: Mapping[str, Any]) -> State:
        """The inverse of `export_state`; raises SnapshotError naming a leaf that does not fit."""
        ...

    def check_state(self, arrays: Mapping[str, Any]) -> None:
        """Raises SnapshotError, naming the leaf, if the arrays are not a state of this model."""
        ...

    def adapt_state(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """A state saved under another precision policy, as this program's policy keeps it."""
        ...

    def unfreeze(self, state: State, ignore_until_step: int) -> State:
        """Lets a frozen state continue; up to that step, a non-finite global batch does not freeze
        it again. The given state is used up.
        """
        ...


class Place(NamedTuple):
    """A device, and the index of the process that it belongs to."""

    device: str
    process: int


class Mismatch(NamedTuple):
    """What differed at a check.

    Attributes:
        what: in words.
        places: the devices that were wrong.
        is_decided: whether a majority says so; else these are all that may have been wrong.
        is_of_state: whether the states of the devices differ; else what they computed of one.
    """

    what: str
    places: Sequence[Place]
    is_decided: bool
    is_of_state: bool


class CheckedProgram(Program[State, Report, Totals], Protocol):
    """A program whose devices can check each other."""

    def checked_step(
        self,
        state: State,
        arrays: Mapping[str, Any],
        start: int,
        since: Report | None,
        step: int,
    ) -> tuple[State, Report]:
        """Takes one step as `train_steps` does, if the devices agree; else freezes the state before
        it. Does not wait.

        Args:
            state: used up.
            arrays: a chunk's.
            start: the global batch.
            since: the report of the steps before.
            step: steps taken before.
        """
        ...

    def examine(self, state: State, arrays: Mapping[str, Any], start: int, step: int) -> Mismatch:
        """Finds which device was wrong at the check at which the state froze; the arguments are
        those of that step.
        """
        ...

    def continue_frozen(self, state: State) -> State:
        """Lets a state go on that froze at a check; it is used up."""
        ...


AnyProgram = Program[Any, Any, Any]


class DataFeed(Protocol):
    """Where global batches come from. Order is a function of (seed, epoch, index) alone."""

    @property
    def num_train_examples(self) -> int: ...

    @property
    def tokens_per_example(self) -> int | None:
        """None: the examples are not made of tokens."""
        ...

    @property
    def eval_splits(self) -> Sequence[str]:
        """The evaluation splits: `eval`, or `eval/<name>` of each of several."""
        ...

    @property
    def test_splits(self) -> Sequence[str]:
        """What is evaluated when the run completes: `test`, or nothing."""
        ...

    def train_chunks(
        self, examples_seen: int, max_global_batches: int
    ) -> Generator[Chunk, None, None]:
        """Endless chunks of at most `max_global_batches`, all of one shape, from that position on;
        `close()` frees what it holds.
        """
        ...

    def train_indices(self, examples_seen: int) -> Sequence[int]:
        """Which examples of the training split the global batch that begins there holds."""
        ...

    def eval_batches(self, split: str) -> Iterator[Mapping[str, Any]]:
        """An evaluation or test split once, in order, the tail padded and masked."""
        ...


class Bus(Protocol):
    """Delivers events, and carries the listeners' states in and out of snapshots."""

    def emit(self, event: Event) -> None: ...

    def export_state(self) -> dict[str, Any]: ...

    def import_state(self, states: Mapping[str, Any]) -> None: ...


class Snapshot(NamedTuple):
    """A verified snapshot in host memory: leaf path -> array, and the record beside them."""

    path: Path
    arrays: Mapping[str, Any]
    record: SnapshotRecord


class SnapshotManager(Protocol):
    """Writes snapshots in the background, one at a time, and reads the newest back."""

    def busy(self) -> bool:
        """Whether a save is still under way."""
        ...

    def save(self, name: str, arrays: Mapping[str, Any], record: SnapshotRecord) -> None:
        """Starts a save; none may be under way."""
        ...

    def finished(self, *, wait: bool = False) -> list[SnapshotSaved | SnapshotFailed]:
        """What has ended since the last call; `wait` waits for the one under way."""
        ...

    def read_newest(self, up_to_step: int | None = None) -> Snapshot | None:
        """The newest snapshot of this run that verifies; None if there is none. Damaged ones are
        moved to quarantine.

        Args:
            up_to_step: if there is one of this step or an earlier one, the later ones are not to be
                trusted, and are moved to quarantine, too.
        """
        ...


class DumpWriter(Protocol):
    """Writes what is needed to replay a non-finite global batch and find its cause."""

    def has_budget(self) -> bool:
        """Whether another dump would be written; the first few of a run are enough."""
        ...

    def write(
        self, step: int, examples_seen: int, arrays: Mapping[str, Any], what: str
    ) -> str | None:
        """Writes a dump, and waits for it.

        Args:
            step: the step whose global batch was not finite.
            examples_seen: where that global batch begins.
            arrays: the exported state as it was before, and so after, that step.
            what: what was not finite, `LOSS_OR_GRADIENT` or `UPDATE_OR_STATE`.

        Returns:
            Where it is; None if it is not kept, or could not be written.
        """
        ...


class Peers(Protocol):
    """The processes of one run. All of them make the same calls in the same order."""

    index: int
    count: int

    def broadcast(self, value: Any) -> Any:
        """Process 0's JSON value, on every process."""
        ...

    def all_gather(self, value: Any) -> list[Any]:
        """Every process's JSON value, on every process, in their order."""
        ...

    def put(self, key: str, value: Any, *, replace: bool = False) -> None:
        """Puts a JSON value into the shared store. The first value of a key stays, unless
        `replace`. From any thread.
        """
        ...

    def get(self, key: str) -> Any:
        """The value of a key in the shared store; None if there is none. From any thread."""
        ...

    def exchange_exit_reasons(self, mine: str) -> list[str | None]:
        """Says why this process ends, and collects the others' reasons; None for a process that
        gives none within seconds.
        """
        ...


class SingleProcess:
    """Peers of a run with one process."""

    index, count = 0, 1

    def __init__(self) -> None:
        self._store: dict[str, Any] = {}

    def put(self, key: str, value: Any, *, replace: bool = False) -> None:
        if replace or key not in self._store:
            self._store[key] = value

    def get(self, key: str) -> Any:
        return self._store.get(key)

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value]

    def exchange_exit_reasons(self, mine: str) -> list[str | None]:
        return [mine]
