"""One pass over each evaluation split, and a second one, batch by batch, if it is not finite."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple

from aetheria.engine.interfaces import (
    DataFeed,
    HostReport,
    Program,
    Report,
    State,
    Totals,
)
from aetheria.engine.stall_timer import StallTimer
from aetheria.engine.stop import StopSignal


class BadEvaluation(NamedTuple):
    """Which part of an evaluation is not finite.

    Attributes:
        num_batches: batches whose loss is not finite.
        num_examples: the examples in them.
        first: the first of these batches, and the first example of it whose data is not finite, in
            words.
    """

    num_batches: int = 0
    num_examples: int = 0
    first: str = ""


class Evaluation(NamedTuple):
    """The result of a pass over one split.

    Attributes:
        metrics: weighted means over the split.
        num_examples: how many examples they rest on.
        bad: what is not finite.
        seconds: how long it took.
    """

    metrics: Mapping[str, float]
    num_examples: int
    bad: BadEvaluation
    seconds: float


class Evaluator(Generic[State, Report, Totals]):
    """Evaluates a state on some splits; all processes make the same calls."""

    def __init__(
        self,
        program: Program[State, Report, Totals],
        feed: DataFeed,
        stop: StopSignal,
        stalls: StallTimer,
    ):
        self._program, self._feed, self._stop, self._stalls = program, feed, stop, stalls

    def evaluate(self, state: State, splits: Sequence[str]) -> dict[str, Evaluation] | None:
        """Evaluates one split after the other; None: a preemption interrupted one of the passes."""
        done: dict[str, Evaluation] = {}
        for split in splits:
            started_at, bad = time.perf_counter(), BadEvaluation()
            report = self._pass_over(split, state)
            if report is None:
                return None
            assert report.num_examples is not None, "an evaluation counts its examples"
            if not math.isfinite(report.metrics["loss"]):
                bad = self._find_bad_batches(split, state)
            seconds = time.perf_counter() - started_at
            done[split] = Evaluation(report.metrics, report.num_examples, bad, seconds)
        return done

    def _pass_over(self, split: str, state: State) -> HostReport | None:
        totals: Totals | None = None
        for batch in self._feed.eval_batches(split):
            with self._stalls.for_compiler("eval_step"), self._program.loop_context():
                totals = self._program.eval_step(state, batch, totals)
            if self._stop.poll() and self._stop.preempt:
                return None
        assert totals is not None, "every split has a batch"
        return self._program.fetch(totals)

    def _find_bad_batches(self, split: str, state: State) -> BadEvaluation:
        """Evaluates each batch by itself. The sums do not show which of their examples was not
        finite; the data does, if it is the cause.
        """
        num_batches = num_examples = seen = 0
        first = ""
        for number, batch in enumerate(self._feed.eval_batches(split)):
            with self._stalls.for_compiler("eval_step"):
                report = self._program.fetch(self._program.eval_step(state, batch, None))
            count = report.num_examples or 0
            if not math.isfinite(report.metrics["loss"]):
                first = first or _describe(batch, number, seen, count)
                num_batches, num_examples = num_batches + 1, num_examples + count
            seen += count
        return BadEvaluation(num_batches, num_examples, first)


def _describe(batch: Mapping[str, Any], number: int, seen: int, count: int) -> str:
    real = batch["mask"] > 0
    if int(real.sum()) != count:  # the others' rows are elsewhere
        return f"batch {number} (from 0)"
    text = f"batch {number} (from 0), examples {seen} to {seen + count - 1}"
    for name, column in batch.items():
        if column.dtype.kind in "fc":
            # A NaN is not even itself.
            finite = (column == column) & (abs(column) != math.inf)
            rows = finite.reshape(len(column), -1).all(axis=1)[real]
            if not rows.all():
                row = int(rows.argmin())
                return f"{text}: column {name} of example {seen + row} is not finite"
    return text
