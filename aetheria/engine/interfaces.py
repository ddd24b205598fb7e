"""Vocabulary: what the rooms promise each other. Plain Python; imports only the events
and the record.

`State`, `Report` and `Totals` are opaque on purpose: the engine passes them from one call to the
next and never looks inside, so a JAX and a PyTorch program serve it alike.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from aetheria.engine.record import SnapshotRecord
from aetheria.events import Event, SnapshotFailed, SnapshotSaved

State = Any
Report = Any
Totals = Any

# What the guard may find that is not finite in a window.
LOSS_OR_GRADIENT, UPDATE_OR_STATE = "loss or gradient", "update or model state"


class Chunk(NamedTuple):
    """Consecutive windows; a window is the data of one optimizer step.

    Attributes:
        arrays: column name -> [num_windows, grad_accumulation_steps, micro_batch, ...], with a
            `mask` column f32 that is 1 for an example and 0 for padding.
        num_examples: real examples in each global batch. Shorter than `num_global_batches` where an
            epoch ends inside the chunk; the rows beyond are no data and are never trained on.
    """

    arrays: Mapping[str, Any]
    num_examples: Sequence[int]


class GuardCounters(NamedTuple):
    """What the guard inside the step has counted, on the device, up to `step`.

    Attributes:
        step: steps taken.
        num_skipped: windows skipped.
        consecutive_skips: those in a row, up to this step.
        last_skipped_step: the last of them; 0 for none.
        frozen_step: the non-finite window at which the state holds, and waits for the host to
            release it; 0: it does not.
        what: what was not finite in the last window skipped.
    """

    step: int
    num_skipped: int
    consecutive_skips: int
    last_skipped_step: int
    frozen_step: int = 0
    what: str = LOSS_OR_GRADIENT

    @classmethod
    def of(cls, counters: Sequence[int]) -> "GuardCounters":
        """Reads them as the step packs them: the last step skipped is negative where its loss and
        gradient were finite.

        >>> GuardCounters.of([7, 1, 1, -7, 7, 0]).what
        'update or model state'
        """
        step, num_skipped, consecutive, last, held, _ = counters
        what = UPDATE_OR_STATE if last < 0 else LOSS_OR_GRADIENT
        return cls(step, num_skipped, consecutive, abs(last), held, what)


class HostReport(NamedTuple):
    """A fetched report.

    Attributes:
        metrics: weighted means; of training, over the steps of the interval that changed anything.
        num_examples: of an evaluation: how many examples they rest on.
        guard: of training: the guard's counters.
        sums: of training: what the means are made of, name -> [sum, weight], JSON values.
    """

    metrics: Mapping[str, float]
    num_examples: int | None
    guard: GuardCounters | None
    sums: Mapping[str, Sequence[float]] = {}


class Program(Protocol):
    """Strategy's product: one model, compiled for one set of devices."""

    @property
    def steps_per_call(self) -> int:
        """How many windows one call should be offered: several where dispatching each step on its
        own would take a share of its time.
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
        """Takes one optimizer step on each of `count` windows of a chunk, from `start` on; returns
        a report of them and of the steps that `since` reports, the same whichever way these were
        cut into calls. Does not wait for the device to come to it; it may wait for a call before,
        so as not to be far ahead.
        """
        ...

    def import_report(self, sums: Mapping[str, Sequence[float]]) -> Report:
        """A report to go on from, of the sums of one that was fetched."""
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

    def unfreeze(self, state: State, ignore_until_step: int) -> State:
        """Lets a state that holds go on; up to that step, non-finite windows do not hold it again.
        The given state is used up.
        """
        ...


class DataFeed(Protocol):
    """Where windows come from. Order is a function of (seed, epoch, index) and nothing else."""

    @property
    def num_train_examples(self) -> int: ...

    def train_chunks(
        self, examples_seen: int, max_global_batches: int
    ) -> Generator[Chunk, None, None]:
        """Endless chunks of at most `max_global_batches`, all of one shape, from that position on;
        `close()` frees what it holds.
        """
        ...

    def train_indices(self, examples_seen: int) -> Sequence[int]:
        """Which examples of the training split the window that begins there holds."""
        ...

    def eval_batches(self) -> Iterator[Mapping[str, Any]]:
        """The evaluation split once, in order, the tail padded and masked."""
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

    def read_newest(self) -> Snapshot | None:
        """The newest snapshot of this run that proves sound; None if there is none. Damaged ones
        are moved aside.
        """
        ...


class DumpWriter(Protocol):
    """Keeps what is needed to replay a non-finite window and find out where it went wrong."""

    def has_budget(self) -> bool:
        """Whether another dump would be kept; the first few of a run tell enough."""
        ...

    def write(
        self, step: int, examples_seen: int, arrays: Mapping[str, Any], what: str
    ) -> str | None:
        """Writes a dump, and waits for it.

        Args:
            step: the step whose window was not finite.
            examples_seen: where that window begins.
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
        """Puts a JSON value up for all; the first of a key stays, but for `replace`. From any
        thread.
        """
        ...

    def get(self, key: str) -> Any:
        """What is put up; None if nothing is. From any thread."""
        ...

    def exchange_exit_reasons(self, mine: str) -> list[str | None]:
        """Leaves word of what ended this process, and collects the others'; None from a process
        that sends none within seconds.
        """
        ...


class SingleProcess:
    """Peers of a run with one process."""

    index, count = 0, 1

    def __init__(self) -> None:
        self._board: dict[str, Any] = {}

    def put(self, key: str, value: Any, *, replace: bool = False) -> None:
        if replace or key not in self._board:
            self._board[key] = value

    def get(self, key: str) -> Any:
        return self._board.get(key)

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value]

    def exchange_exit_reasons(self, mine: str) -> list[str | None]:
        return [mine]
