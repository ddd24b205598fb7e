"""The loop over chunks of tokens, for a few rows of one size.

A row sees the tokens from `start` on, at most as many as in training. When they are full, it goes
on with the last half of them, which are read again: their positions have changed. Where that is
depends on the row alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from aetheria.errors import AetheriaError
from aetheria.hardware.jax.generation.program import MAX_STEPS, NUM_ROWS, DecodeProgram, RowInputs
from aetheria.hardware.jax.generation.sampling import Sampling
from aetheria.hardware.jax.prediction import power_of_two
from aetheria.hardware.layout.leaves import Weights


class Sizes(NamedTuple):
    """What is compiled for: rows of the same sizes run together.

    Attributes:
        read: tokens that a prompt is padded to.
        length: tokens that the cache has room for.
    """

    read: int
    length: int


@dataclass(eq=False)
class Row:
    """A prompt and what follows it.

    Attributes:
        prompt: i32 [length].
        seed: of the draws.
        limit: the number of tokens to draw.
        stops: rows of tokens, each of which ends the text before it.
        drawn: the tokens so far.
        start: the first token that the model sees, of prompt and drawn tokens together.
        end: the number of drawn tokens that count; None: the row is not finished.
    """

    prompt: np.ndarray
    seed: int
    limit: int
    stops: Sequence[np.ndarray] = ()
    drawn: list[int] = field(default_factory=list)
    start: int = 0
    end: int | None = None

    @property
    def seen(self) -> int:
        """How many tokens the model sees next."""
        return len(self.prompt) + len(self.drawn) - self.start

    @property
    def safe(self) -> int:
        """How many drawn tokens can no longer turn out to be the begin of a stop."""
        longest = max((len(stop) for stop in self.stops), default=1)
        return max(len(self.drawn) - longest + 1, 0) if self.end is None else self.end

    def context(self) -> np.ndarray:
        """The tokens that the model sees next, i32 [seen]."""
        return np.concatenate([self.prompt, np.array(self.drawn, np.int32)])[self.start :]

    def slide(self, length: int) -> bool:
        """Forgets the oldest tokens if there are more than `length`; returns whether it did."""
        before = self.start
        while self.seen > length:
            self.start += length + 1 - max(length // 2, 1)
        return self.start != before

    def extend(self, tokens: Sequence[int]) -> None:
        """Adds drawn tokens, and finishes at a stop or at the limit."""
        searched = len(self.drawn)
        self.drawn.extend(tokens)
        ends = [
            end for stop in self.stops if (end := _find(self.drawn, stop, searched)) is not None
        ]
        if ends:
            self.end = min(ends)
        elif len(self.drawn) >= self.limit:
            self.end = len(self.drawn)

    def sizes(self, length: int) -> Sizes:
        """The sizes to compile for, before anything is drawn.

        Args:
            length: the number of tokens that the model was trained to see.
        """
        self.slide(length)
        most = self.seen + self.limit - 1
        if most <= length:
            return Sizes(min(power_of_two(self.seen), length), min(power_of_two(most), length))
        return Sizes(min(power_of_two(max(self.seen, length // 2)), length), length)


def run_rows(
    program: DecodeProgram,
    weights: Weights,
    rows: Sequence[Row],
    sizes: Sizes,
    sampling: Sampling,
    chunk: int = MAX_STEPS,
) -> Iterator[None]:
    """Extends rows of the same sizes until all are finished; yields after each chunk of tokens.

    Order: rows that are full slide; rows that have not been read, or slid, are read; then as many
    tokens are drawn as the chunk holds and no row needs to slide before.

    Args:
        program: the compiled functions.
        weights: the model's.
        rows: at most NUM_ROWS, which have drawn nothing yet.
        sizes: of all of them.
        sampling: how to draw.
        chunk: the most tokens to draw between two yields.

    Raises:
        AetheriaError: the logits of a draw are not finite.
    """
    assert 0 < len(rows) <= NUM_ROWS and 0 < chunk <= MAX_STEPS
    cache = program.empty_cache(weights, sizes.length)
    unread = {row for row in rows if row.seen > 1}
    while active := [row for row in rows if row.end is None]:
        unread |= {row for row in active if row.slide(sizes.length)}
        if unread:
            needed = np.array([*(row in unread for row in rows), *[False] * NUM_ROWS][:NUM_ROWS])
            contexts = _padded([row.context() for row in rows], sizes.read, needed)
            cache = program.read(weights, cache, contexts, needed, sizes.length)
            unread = set()
        number = len(active[0].drawn)
        room = min(sizes.length - row.seen + 1 for row in active)
        num_steps = min(chunk, active[0].limit - number, room)
        inputs = _inputs(rows, number, num_steps)
        cache, tokens, finite = program.extend(weights, cache, inputs, sampling, sizes.length)
        drawn, is_finite = np.asarray(tokens)[:, :num_steps].tolist(), np.asarray(finite)
        for index, row in enumerate(rows):
            if row.end is None:
                _check_finite(bool(is_finite[index]), number)
                row.extend(drawn[index])
        yield


def _inputs(rows: Sequence[Row], number: int, num_steps: int) -> RowInputs:
    last, position, seeds = (np.zeros(NUM_ROWS, np.int32) for _ in range(3))
    active, seeds = np.zeros(NUM_ROWS, bool), seeds.astype(np.uint32)
    for index, row in enumerate(rows):
        if row.end is None:
            last[index], position[index] = row.context()[-1], row.seen - 1
            active[index], seeds[index] = True, row.seed
    return RowInputs(last, position, active, seeds, np.int32(number), np.int32(num_steps))


def _padded(contexts: Sequence[np.ndarray], size: int, needed: np.ndarray) -> np.ndarray:
    padded = np.zeros((NUM_ROWS, size), np.int32)
    for index, context in enumerate(contexts):
        if needed[index]:
            padded[index, : len(context)] = context
    return padded


def _check_finite(is_finite: bool, number: int) -> None:
    if not is_finite:
        raise AetheriaError(
            f"generate: expected finite logits, got others within {MAX_STEPS} tokens after "
            f"{number} new ones; the weights are not finite or mixed_precision overflows: use "
            "another snapshot, or mixed_precision=False"
        )


def _find(tokens: Sequence[int], stop: np.ndarray, searched: int) -> int | None:
    """Where `stop` begins in tokens of which the first `searched` do not hold it whole."""
    wanted = stop.tolist()
    first = max(searched - len(wanted) + 1, 0)
    places = range(first, len(tokens) - len(wanted) + 1)
    return next((place for place in places if tokens[place : place + len(wanted)] == wanted), None)
