"""Which part of an evaluation is not finite: a second pass, batch by batch, made only then."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from aetheria.engine.interfaces import DataFeed, Program, State
from aetheria.engine.stall_timer import StallTimer


class BadEvaluation(NamedTuple):
    """What of an evaluation is not finite.

    Attributes:
        num_batches: batches whose loss is not finite.
        num_examples: the examples in them.
        first: the first of these batches, and the first example of it whose data is not finite, in
            words.
    """

    num_batches: int = 0
    num_examples: int = 0
    first: str = ""


def find_bad_batches(
    program: Program, state: State, feed: DataFeed, waits: StallTimer
) -> BadEvaluation:
    """Evaluates each batch by itself. Sums cannot tell which of their examples was not finite; the
    data can, if it is the cause. All processes make the same calls.
    """
    num_batches = num_examples = seen = 0
    first = ""
    for number, batch in enumerate(feed.eval_batches()):
        with waits.for_compiler("eval_step"):
            report = program.fetch(program.eval_step(state, batch, None))
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
