"""Computes the steps after a common state again, under the record of each run: whether these give
different bits here, where, and whether they give what the runs logged.
"""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from aetheria.hardware.layout.trees import Columns, Leaves
from aetheria.tools.compare.building import Side
from aetheria.tools.compare.metric_lines import Key, Line, Value
from aetheria.tools.compare.operations import OperationDifference, first_operation
from aetheria.tools.compare.states import LeafDifference, compare_leaves

MAX_STEPS = 200  # that are computed again
_MAX_EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where to begin.

    Attributes:
        where: in words.
        step: the step of the state.
        examples_seen: the position in the data.
        arrays: the state; None: each run's own initialization.
        interval: metric -> sums over the steps since the last log, as a snapshot holds them.
    """

    where: str
    step: int = 0
    examples_seen: int = 0
    arrays: Leaves | None = None
    interval: Mapping[str, Sequence[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class BatchDifference:
    """The first global batch that differs.

    Attributes:
        step: the step that it is of.
        how: `size`, `order` or `values`: other numbers of examples, other examples, or other
            values of the same examples.
        examples: numbers in the training split of those whose values differ, at most some.
    """

    step: int
    how: str
    examples: Sequence[int] = ()


class Unlike(NamedTuple):
    """A logged value that the computation does not give again."""

    step: int
    name: str
    logged: Value
    computed: Value


@dataclass(frozen=True, kw_only=True)
class Again:
    """How what was computed compares with what a run logged.

    Attributes:
        num_lines: how many lines of training were compared.
        unlike: the first value that differs; None: none does.
        state: whether the last state is that of its snapshot; None: it has none there.
    """

    num_lines: int
    unlike: Unlike | None
    state: bool | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether everything agrees; None: there was nothing to compare."""
        if self.unlike is not None or self.state is False:
            return False
        return True if self.num_lines or self.state else None


@dataclass(kw_only=True)
class Computed:
    """What the computation showed.

    Attributes:
        start: where it began, in words.
        first_step: the first step that was computed.
        last_step: the last one.
        initial: how the initial states differ; None: they do not, or a snapshot was the start.
        batch: the first global batch that differs; None: none does.
        step: the first step after which the states differ; None: they never do.
        state: how they differ there.
        compared_operations: whether the operations of that step were compared: not if the global
            batch differs, or its slices are of other sizes.
        operation: the first one that differs; None: none does alone.
        again: `A`, `B` -> how it compares with what the run logged.
        notes: what was not as in the runs.
    """

    start: str
    first_step: int
    last_step: int = 0
    initial: LeafDifference | None = None
    batch: BatchDifference | None = None
    step: int | None = None
    state: LeafDifference | None = None
    compared_operations: bool = False
    operation: OperationDifference | None = None
    again: dict[str, Again] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def differs(self) -> bool:
        """Whether the two computations differ."""
        return self.initial is not None or self.step is not None


class _Steps:
    """The steps of one run, one after the other."""

    def __init__(self, side: Side, start: Start, lines: Mapping[Key, Line]):
        self.side, self._lines = side, lines
        program = side.program
        arrays = start.arrays
        self._state = program.init() if arrays is None else program.import_state(arrays)
        self._since = program.import_report(start.interval) if start.interval else None
        self._step = start.step
        self._batches = self._read(start.examples_seen)
        self.num_lines = 0
        self.unlike: Unlike | None = None

    def _read(self, examples_seen: int) -> Generator[tuple[Mapping[str, np.ndarray], int]]:
        """Chunks and the place of the next global batch in each, as the run was given them."""
        most = self.side.program.steps_per_call
        with contextlib.closing(self.side.feed.train_chunks(examples_seen, most)) as chunks:
            for chunk in chunks:
                for index, count in enumerate(chunk.num_examples):
                    self.examples_seen = examples_seen
                    yield chunk.arrays, index
                    examples_seen += count

    def leaves(self) -> Leaves:
        """The state on the host."""
        exported = self.side.program.export_state(self._state)
        return {path: np.asarray(leaf) for path, leaf in exported.items()}

    def take(self) -> Columns:
        """Takes a step; returns its global batch."""
        arrays, index = next(self._batches)
        program = self.side.program
        self._state, self._since = program.train_steps(self._state, arrays, index, 1, self._since)
        self._step += 1
        line = self._lines.get((self._step, "train"))
        if line is not None:
            self._check(line, program.fetch(self._since).metrics)
            self._since = None
        return {name: column[index] for name, column in arrays.items()}

    def _check(self, line: Line, computed: Mapping[str, float]) -> None:
        if self.unlike is not None:
            return
        self.num_lines += 1
        for name, value in computed.items():
            logged = line.values.get(name, value)
            if logged != (value if np.isfinite(value) else None):
                self.unlike = Unlike(self._step, name, logged, value)
                return

    def close(self) -> None:
        self._batches.close()


def compute(
    a: Side,
    b: Side,
    start: Start,
    until: int,
    *,
    logged: Sequence[Mapping[Key, Line]],
    states: Sequence[Leaves],
) -> Computed:
    """Computes from `start` to the step `until`, at most MAX_STEPS.

    Args:
        a: the steps of A.
        b: those of B; with the same program if nothing that is computed differs.
        start: where to begin.
        until: the last step.
        logged: the metric lines of A and of B.
        states: those of their snapshots of step `until`; empty: there are none.

    Raises:
        AetheriaError: the state does not fit the model or the data cannot be read.
    """
    last, until = until, min(until, start.step + MAX_STEPS)
    notes = [f"{name}: {note}" for name, side in (("A", a), ("B", b)) for note in side.notes]
    done = Computed(start=start.where, first_step=start.step + 1, notes=notes)
    with contextlib.ExitStack() as stack:
        both = [_Steps(side, start, known) for side, known in zip((a, b), logged, strict=True)]
        for each in both:
            stack.callback(each.close)
        if start.arrays is None and a.program is not b.program:
            done.initial = compare_leaves(*(each.leaves() for each in both))
        if done.initial is None or done.initial.same_shapes:
            _advance(done, both, until)
        reached = states if done.last_step == last else ()
        for name, each, state in zip_longest("AB", both, reached):
            same = None if state is None else compare_leaves(each.leaves(), state) is None
            done.again[name] = Again(num_lines=each.num_lines, unlike=each.unlike, state=same)
    return done


def _advance(done: Computed, both: Sequence[_Steps], until: int) -> None:
    """Takes the steps of both runs side by side, and looks at the states up to the first that
    differ.
    """
    mine, others = both
    looks = mine.side.program is not others.side.program and not done.differs
    before = mine.leaves() if looks else {}
    for step in range(done.first_step, until + 1):
        batches = [each.take() for each in both]
        done.last_step = step
        if not looks:
            continue
        if done.batch is None:
            done.batch = _compare_batches(step, both, batches)
        after = mine.leaves()
        done.state = compare_leaves(after, others.leaves())
        if done.state is not None:
            looks, done.step = False, step
            a, b = batches
            same_slices = a["mask"].shape == b["mask"].shape
            done.compared_operations = done.batch is None and same_slices
            if done.compared_operations:
                parts = [each.side.parts for each in both]
                pairs = zip(parts, batches, strict=True)
                done.operation = first_operation(*((part, before, batch) for part, batch in pairs))
        before = after


def _compare_batches(
    step: int, both: Sequence[_Steps], batches: Sequence[Columns]
) -> BatchDifference | None:
    indices = [each.side.feed.train_indices(each.examples_seen) for each in both]
    flat = [
        {name: c.reshape(-1, *c.shape[2:])[: len(taken)] for name, c in batch.items()}
        for batch, taken in zip(batches, indices, strict=True)
    ]
    if len(indices[0]) != len(indices[1]):
        return BatchDifference(step=step, how="size")
    if indices[0] != indices[1]:
        return BatchDifference(step=step, how="order")
    a, b = flat
    if _shapes(a) != _shapes(b):
        return BatchDifference(step=step, how="values")
    differ = [
        number
        for row, number in enumerate(indices[0])
        if any(a[name][row].tobytes() != b[name][row].tobytes() for name in a)
    ]
    if not differ:
        return None
    return BatchDifference(step=step, how="values", examples=sorted(differ)[:_MAX_EXAMPLES])


def _shapes(batch: Columns) -> dict[str, object]:
    return {name: (column.shape, column.dtype) for name, column in batch.items()}
