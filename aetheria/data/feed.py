"""From a source to chunks of windows: order, cursor, the padded tail and its mask."""

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from aetheria.data.prefetch import prefetch
from aetheria.data.sources import DataSplits, Source
from aetheria.engine.interfaces import Chunk

Item = TypeVar("Item")

# Several windows are read at once, and several evaluation batches: one gather and one hand-over
# between threads for all of them. Bounded, so that large examples are read a window at a time.
_MAX_BYTES_PER_READ = 4 << 20
_MAX_EVAL_WINDOWS_PER_READ = 32


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Orders the examples of an epoch: a pure function of its arguments, i64 [num_examples].

    Sorts the raw 64-bit output of Philox, keyed by (seed, epoch). NumPy promises that raw streams
    never change, which it does not for `Generator.permutation` (NEP 19).

    >>> epoch_order(seed=0, epoch=0, num_examples=5).tolist()
    [0, 2, 1, 4, 3]
    """
    generator = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    return np.argsort(generator.random_raw(num_examples), kind="stable")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Serves chunks of windows, and evaluation batches, of constant shape.

    Attributes:
        splits: the training and the evaluation split.
        batch_size: examples in a window, over all devices; a multiple of
            `grad_accumulation_steps`.
        grad_accumulation_steps: micro-batches in a window.
        seed: decides the order, together with the epoch.
        part: which micro-batches of a window, and which rows of each, this process reads; the
            others are read by its peers.
        notes: lines about the data that a user should see at the start.
    """

    splits: DataSplits
    batch_size: int
    grad_accumulation_steps: int
    seed: int
    part: tuple[slice, slice] = (slice(None), slice(None))
    notes: tuple[str, ...] = ()

    @property
    def num_train_examples(self) -> int:
        return len(self.splits.train)

    @property
    def micro_batch(self) -> int:
        return self.batch_size // self.grad_accumulation_steps

    @property
    def global_batch_bytes(self) -> int:
        """What the window, or this process's part of it, takes in memory."""
        num_micro, rows = (
            len(range(size)[part]) for size, part in zip(self._lead, self.part, strict=True)
        )
        example = self.splits.train.read(np.zeros(1, np.int64))
        return num_micro * rows * sum(column.nbytes for column in example.values())

    @property
    def _lead(self) -> tuple[int, int]:
        return self.grad_accumulation_steps, self.micro_batch

    def example_global_batch(self) -> Mapping[str, np.ndarray]:
        """A whole window of the run's shapes and dtypes, made of the first example alone."""
        # Views of one example: a window may be large, and this one is asked for its shape.
        columns = {**self.splits.train.read(np.zeros(1, np.int64)), "mask": np.ones(1, np.float32)}
        return {
            name: np.broadcast_to(a[0], self._lead + a.shape[1:]) for name, a in columns.items()
        }

    def example_spec(self) -> dict[str, Any]:
        """Column name -> shape and dtype of one example, JSON values, the mask included."""
        return {
            name: {"shape": list(column.shape[2:]), "dtype": str(column.dtype)}
            for name, column in self.example_global_batch().items()
        }

    def train_chunks(
        self, examples_seen: int, max_global_batches: int
    ) -> Generator[Chunk, None, None]:
        """Endless chunks from the position `examples_seen` on; no window crosses an epoch."""
        return _serve(self.splits.train, self._read_train(examples_seen, max_global_batches))

    def train_indices(self, examples_seen: int) -> list[int]:
        """The places in the training split of the examples of the window that begins there."""
        epoch, start = divmod(examples_seen, len(self.splits.train))
        order = epoch_order(self.seed, epoch, len(self.splits.train))
        return order[start : start + self.batch_size].tolist()

    def eval_batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The evaluation split in order, once, in batches [micro_batch, ...]."""
        return chain.from_iterable(_serve(self.splits.eval, self._read_eval()))

    def _read_train(self, examples_seen: int, max_global_batches: int) -> Iterator[Chunk]:
        source = self.splits.train
        epoch, start = divmod(examples_seen, len(source))
        num_global_batches = self._windows_per_read(source, max_global_batches)
        stride = self.batch_size * num_global_batches
        while True:
            order = epoch_order(self.seed, epoch, len(source))
            for position in range(start, len(source), stride):
                indices = order[position : position + stride]
                full, rest = divmod(len(indices), self.batch_size)
                counts = [self.batch_size] * full + [rest] * (rest > 0)
                yield Chunk(self._pack(source, indices, num_global_batches), counts)
            epoch, start = epoch + 1, 0

    def _read_eval(self) -> Iterator[list[dict[str, np.ndarray]]]:
        source = self.splits.eval
        num_global_batches = self._windows_per_read(source, _MAX_EVAL_WINDOWS_PER_READ)
        stride = self.batch_size * num_global_batches
        for position in range(0, len(source), stride):
            indices = np.arange(position, min(position + stride, len(source)))
            columns = self._pack(source, indices, -(-len(indices) // self.batch_size))
            flat = {name: a.reshape((-1, *a.shape[2:])) for name, a in columns.items()}
            # Peers must take equally many: batches of padding alone are left out by nobody then.
            alone = self.part[0] == slice(None)
            num_batches = -(-len(indices) // self.micro_batch) if alone else len(flat["mask"])
            yield [{name: a[i] for name, a in flat.items()} for i in range(num_batches)]

    def _pack(
        self, source: Source, indices: np.ndarray, num_global_batches: int
    ) -> dict[str, np.ndarray]:
        """Reads `indices` into [num_windows, grad_accumulation_steps, micro_batch, ...], padded
        and masked.

        Padding repeats a real example: zeros could give a NaN that a zero mask does not silence.
        """
        lead = (num_global_batches, self.grad_accumulation_steps, self.micro_batch)
        places = np.arange(math.prod(lead)).reshape(lead)[:, *self.part]
        num_real = int((places < len(indices)).sum())  # they come first, in whatever part
        taken = indices[places.ravel()[:num_real]] if num_real else indices[-1:]
        columns = {name: _pad(a, places.size) for name, a in source.read(taken).items()}
        columns["mask"] = (np.arange(places.size) < num_real).astype(np.float32)
        return {name: a.reshape(places.shape + a.shape[1:]) for name, a in columns.items()}

    def _windows_per_read(self, source: Source, max_global_batches: int) -> int:
        """As many as the bounds allow, and as even as possible over a pass: less is padded."""
        example = source.read(np.zeros(1, np.int64))
        global_batch_bytes = self.batch_size * sum(column.nbytes for column in example.values())
        most = max(1, min(max_global_batches, _MAX_BYTES_PER_READ // max(global_batch_bytes, 1)))
        global_batches = -(-len(source) // self.batch_size)
        reads = -(-global_batches // most)
        return -(-global_batches // reads)


def _pad(column: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(column)
    return np.concatenate([column, np.repeat(column[-1:], missing, axis=0)]) if missing else column


def _serve(source: Source, reads: Iterator[Item]) -> Generator[Item, None, None]:
    """Reads ahead in a thread, unless the source is in memory already.

    Then a read is a copy of some microseconds that overlaps with the device anyway, since steps are
    only dispatched; a thread would take turns with the loop for the interpreter's lock (measured on
    the digits MLP, 0.1 ms a step: 10 % of the rate).
    """
    if not getattr(source, "in_memory", False):
        yield from prefetch(reads)
        return
    yield from reads
