"""The training data from a position on, cut where the loop wants to stop."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

from aetheria.engine.interfaces import Chunk, DataFeed
from aetheria.engine.stall_timer import StallTimer


class Taken(NamedTuple):
    """Global batches to train on: `len(num_examples)` of a chunk's, from `start` on."""

    arrays: Mapping[str, Any]
    start: int
    num_examples: Sequence[int]


class TrainBatches:
    """Takes global batches from a feed; `seek` first, `close` last.

    Args:
        feed: where they come from.
        most: how many a chunk may hold; asked at a `seek`, since a program may trace to know it.
        stalls: is told of the time that is spent waiting for data.
    """

    def __init__(self, feed: DataFeed, most: Callable[[], int], stalls: StallTimer):
        self._feed, self._most, self._stalls = feed, most, stalls
        self._chunks: Generator[Chunk, None, None] | None = None

    def seek(self, examples_seen: int) -> None:
        """Goes to the global batch that begins there; what was read ahead is dropped."""
        self.close()
        self._chunks = self._feed.train_chunks(examples_seen, self._most())
        self._chunk, self._next = Chunk({}, ()), 0

    def take(self, most: int) -> Taken:
        """The next global batches of one chunk, at least one and at most `most`."""
        if self._next == len(self._chunk.num_examples):
            assert self._chunks is not None, "seek comes first"
            with self._stalls.for_data():
                self._chunk, self._next = next(self._chunks), 0
        start, counts = self._next, self._chunk.num_examples[self._next :][:most]
        self._next += len(counts)
        return Taken(self._chunk.arrays, start, counts)

    def close(self) -> None:
        """Frees what reading ahead holds."""
        if self._chunks is not None:
            self._chunks.close()
