"""Serves a dataset as global batches: their order, the position in it, and the padded tail."""

import functools
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from aetheria.data.prefetch import prefetch
from aetheria.data.sources import Columns, DataSplits, Source, buckets_of, is_parallel
from aetheria.engine.interfaces import Chunk

if TYPE_CHECKING:  # loaded with such a dataset alone
    from aetheria.data.augmentation import Augmentation

Item = TypeVar("Item")

# Several global batches are read at once: one gather and one queue operation serve all of them. The
# bounds make the feed read large examples one global batch at a time.
_MAX_BYTES_PER_READ = 4 << 20
_MAX_EVAL_GLOBAL_BATCHES_PER_READ = 32


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of the examples in an epoch: a pure function of the arguments, i64 [num_examples].

    It sorts the raw 64-bit output of the generator Philox with the key (seed, epoch). NumPy
    guarantees that raw streams never change; it does not for `Generator.permutation`.

    Source: NEP 19, "Random number generator policy".

    >>> epoch_order(seed=0, epoch=0, num_examples=5).tolist()
    [0, 2, 1, 4, 3]
    """
    generator = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    return np.argsort(generator.random_raw(num_examples), kind="stable")


class _Request(NamedTuple):
    """What to read of some global batches.

    Attributes:
        taken: i64 [n], the indices of the examples.
        epoch: of training; None: they are read to evaluate.
        num_real: how many places they fill; the rest is padding.
        shape: [num_global_batches, num_slices, slice_size], this process's part.
        counts: the examples of each global batch, over all processes.
        cuts: padded column -> the length to which it is cut.
    """

    taken: np.ndarray
    epoch: int | None
    num_real: int
    shape: tuple[int, ...]
    counts: list[int]
    cuts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Serves chunks of global batches, and evaluation batches, of constant shapes.

    Attributes:
        splits: the training split and those for evaluation.
        batch_size: examples in a global batch, over all devices; a multiple of `num_slices`.
        num_slices: the slices that every global batch is cut into: micro-batches if the
            reproducibility is `fast`, lanes if it is `elastic`.
        seed: determines the order, together with the epoch.
        part: which slices of a global batch, and which rows of each slice, this process reads; the
            other processes read the rest.
        augment: changes the examples that are read for training; None: nothing does.
        num_readers: the threads that read a source that may be read in parallel.
        notes: lines about the data to show to the user at the start.
    """

    splits: DataSplits
    batch_size: int
    num_slices: int
    seed: int
    part: tuple[slice, slice] = (slice(None), slice(None))
    augment: "Augmentation | None" = None
    num_readers: int = 1
    notes: tuple[str, ...] = ()

    @property
    def num_train_examples(self) -> int:
        """The number of examples in the training split."""
        return len(self.splits.train)

    @property
    def eval_splits(self) -> tuple[str, ...]:
        """The names of the evaluation splits; see `DataSplits.evals`."""
        return tuple(self.splits.evals)

    @property
    def test_splits(self) -> tuple[str, ...]:
        """`test`, if there is a test split."""
        return tuple(self.splits.tests)

    @property
    def slice_size(self) -> int:
        """The number of examples in a slice, and in an evaluation batch."""
        return self.batch_size // self.num_slices

    @property
    def global_batch_bytes(self) -> int:
        """The size in memory of this process's part of a global batch."""
        num_slices, num_rows = (
            len(range(size)[part]) for size, part in zip(self._lead, self.part, strict=True)
        )
        return num_slices * num_rows * _example_bytes(self.splits.train)

    @property
    def _lead(self) -> tuple[int, int]:
        return self.num_slices, self.slice_size

    def example_global_batch(self) -> Columns:
        """A whole global batch with the shapes and dtypes of the run; every row is the first
        example.

        The arrays are read-only views of that example, so a large batch takes no memory.
        """
        columns = {**self.splits.train.read(np.zeros(1, np.int64)), "mask": np.ones(1, np.float32)}
        return {
            name: np.broadcast_to(a[0], self._lead + a.shape[1:]) for name, a in columns.items()
        }

    @property
    def tokens_per_example(self) -> int | None:
        """The length of the inputs if they are tokens, whole numbers [examples, length]; else
        None.
        """
        inputs = self.splits.train.read(np.zeros(1, np.int64)).get("inputs")
        if inputs is None or inputs.ndim != 2 or inputs.dtype.kind not in "iu":
            return None
        return inputs.shape[1]

    def example_spec(self) -> dict[str, Any]:
        """Column name -> shape and dtype of one example, as JSON values; the mask is included."""
        return {
            name: {"shape": list(column.shape[2:]), "dtype": str(column.dtype)}
            for name, column in self.example_global_batch().items()
        }

    def train_chunks(
        self, examples_seen: int, max_global_batches: int
    ) -> Generator[Chunk, None, None]:
        """Yields chunks without end, from a position on. No global batch crosses an epoch.

        Args:
            examples_seen: the position, in training examples since the start of the first epoch.
            max_global_batches: the largest number of global batches in a chunk.
        """
        requests = self._train_requests(examples_seen, max_global_batches)
        return self._serve(self.splits.train, requests, lambda r, c: Chunk(_pack(r, c), r.counts))

    def chunk_size(self, max_global_batches: int) -> int:
        """How many global batches each chunk of `train_chunks` holds, padded ones included: one
        where their shapes differ.
        """
        return self._global_batches_per_read(self.splits.train, max_global_batches)

    def train_indices(self, examples_seen: int) -> list[int]:
        """The indices in the training split of the global batch that begins at a position."""
        epoch, start = divmod(examples_seen, len(self.splits.train))
        order = epoch_order(self.seed, epoch, len(self.splits.train))
        return order[start : start + self.batch_size].tolist()

    def eval_batches(self, split: str = "eval") -> Iterator[Columns]:
        """Yields an evaluation or test split in order, once, in batches [slice_size, ...].

        The tail is padded and masked.
        """
        source = {**self.splits.evals, **self.splits.tests}[split]
        served = self._serve(source, self._eval_requests(source), self._eval_batches)
        return chain.from_iterable(served)

    def _train_requests(self, examples_seen: int, max_global_batches: int) -> Iterator[_Request]:
        source, size = self.splits.train, len(self.splits.train)
        epoch, start = divmod(examples_seen, size)
        num_global_batches = self.chunk_size(max_global_batches)
        stride = self.batch_size * num_global_batches
        while True:
            order = epoch_order(self.seed, epoch, size)
            for position in range(start, size, stride):
                indices = order[position : position + stride]
                yield self._request(source, indices, num_global_batches, epoch)
            epoch, start = epoch + 1, 0

    def _eval_requests(self, source: Source) -> Iterator[_Request]:
        size = len(source)
        num_global_batches = self._global_batches_per_read(
            source, _MAX_EVAL_GLOBAL_BATCHES_PER_READ
        )
        stride = self.batch_size * num_global_batches
        for position in range(0, size, stride):
            indices = np.arange(position, min(position + stride, size))
            yield self._request(source, indices, -(-len(indices) // self.batch_size))

    def _eval_batches(self, request: _Request, columns: Columns) -> list[dict[str, np.ndarray]]:
        packed = _pack(request, columns)
        flat = {name: a.reshape((-1, *a.shape[2:])) for name, a in packed.items()}
        num_batches = len(flat["mask"])
        if self.part[0] == slice(None):
            # This process reads all slices: batches of only padding are left out. Where slices
            # are distributed over processes, all must serve equally many batches.
            num_batches = -(-sum(request.counts) // self.slice_size)
        return [{name: a[i] for name, a in flat.items()} for i in range(num_batches)]

    def _request(
        self,
        source: Source,
        indices: np.ndarray,
        num_global_batches: int,
        epoch: int | None = None,
    ) -> _Request:
        """What this process reads of some global batches.

        Args:
            source: the split.
            indices: i64 [n], of the examples, at most as many as fill the global batches.
            num_global_batches: how many global batches to make.
            epoch: of training.
        """
        num_full, rest = divmod(len(indices), self.batch_size)
        lead = (num_global_batches, self.num_slices, self.slice_size)
        places = np.arange(math.prod(lead)).reshape(lead)[:, *self.part]
        num_real = int((places < len(indices)).sum())  # in every part, the examples come first
        taken = indices[places.ravel()[:num_real]] if num_real else indices[-1:]
        counts = [self.batch_size] * num_full + ([rest] if rest else [])
        # By all examples of the global batch, so that every process cuts to the same length.
        buckets = buckets_of(source)
        cuts = {} if buckets is None else buckets.cuts(indices)
        return _Request(taken, epoch, num_real, places.shape, counts, cuts)

    def _serve(
        self, source: Source, requests: Iterator[_Request], finish: Callable[..., Item]
    ) -> Generator[Item, None, None]:
        """Reads ahead in threads, unless the source is in memory.

        A read in memory is a copy that takes some microseconds, and it overlaps with the device
        anyway, because steps are only dispatched. A thread would compete with the loop for the
        interpreter's lock: measured on the digits MLP, at 0.1 ms a step, it costs 10 % of the rate.
        """
        read = functools.partial(self._read, source)
        reads = ((request, read(request.taken, request.epoch)) for request in requests)
        in_memory = getattr(source, "in_memory", False)
        if in_memory and (self.augment is None or source is not self.splits.train):
            yield from (finish(*each) for each in reads)
            return
        if self.num_readers > 1 and is_parallel(source):
            from aetheria.data.readers import read_together

            reads = read_together(read, requests, self.num_readers)
        yield from prefetch(finish(*each) for each in reads)

    def _read(self, source: Source, indices: np.ndarray, epoch: int | None) -> Columns:
        columns = source.read(indices)
        if self.augment is None or epoch is None:
            return columns
        return self.augment(columns, indices, epoch)

    def _global_batches_per_read(self, source: Source, max_global_batches: int) -> int:
        """As many as the bounds allow, evened out over an epoch so that little is padded."""
        if buckets_of(source) is not None:
            return 1
        global_batch_bytes = self.batch_size * _example_bytes(source)
        most = max(1, min(max_global_batches, _MAX_BYTES_PER_READ // max(global_batch_bytes, 1)))
        num_global_batches = -(-len(source) // self.batch_size)
        num_reads = -(-num_global_batches // most)
        return -(-num_global_batches // num_reads)


def _example_bytes(source: Source) -> int:
    """The size in memory of one example."""
    return sum(column.nbytes for column in source.read(np.zeros(1, np.int64)).values())


def _pack(request: _Request, columns: Columns) -> dict[str, np.ndarray]:
    """Pads and masks what was read.

    Padding repeats a real example: zeros could give a NaN, and a NaN times a zero of the mask is
    still a NaN.

    Returns:
        Column name -> [num_global_batches, num_slices, slice_size, ...], this process's part, and
        the column `mask`, f32, 1 for an example and 0 for padding.
    """
    size = math.prod(request.shape)
    packed = {name: _pad(column, size) for name, column in columns.items()}
    packed |= {name: packed[name][:, :length] for name, length in request.cuts.items()}
    packed["mask"] = (np.arange(size) < request.num_real).astype(np.float32)
    return {name: a.reshape(request.shape + a.shape[1:]) for name, a in packed.items()}


def _pad(column: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(column)
    return np.concatenate([column, np.repeat(column[-1:], missing, axis=0)]) if missing else column
