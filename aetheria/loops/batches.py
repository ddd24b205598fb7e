"""Batches for a loop of one's own, from any position, in an order that no machine changes."""

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from aetheria.build import make_dataset
from aetheria.data import DataSplits, Feed
from aetheria.data.checks import check_source
from aetheria.data.forms import as_source
from aetheria.data.sources import Columns
from aetheria.errors import AetheriaError
from aetheria.plugins.discovery import find_project

_READ_AHEAD = 32  # batches of small examples that are read at once


class TrainBatch(NamedTuple):
    """A training batch, and where the next one begins.

    Attributes:
        examples_seen: the position after this batch: what a snapshot has to keep.
        columns: name -> [batch_size, ...], with `mask`, f32 [batch_size], 0 for padding.
    """

    examples_seen: int
    columns: Columns


class Batches:
    """Serves one set of examples in batches of one shape; the tail is padded and masked.

    Args:
        data: arrays, a table, a dataset: any form of one set of examples that `aetheria.train`
            takes, or one split of `DataSplits`.
        batch_size: examples in a batch.
        seed: determines the order, together with the epoch.
        augment: changes each training example, (example, rng) -> example, as the `augment` of
            `DataSplits` does.
        num_readers: the threads that read ahead, if the data is not in memory and allows several.

    Raises:
        AetheriaError: it is no set of examples; a column and a row are named.
    """

    def __init__(
        self,
        data: object,
        *,
        batch_size: int,
        seed: int = 0,
        augment: Callable[[Any, np.random.Generator], Any] | None = None,
        num_readers: int = 1,
    ):
        if isinstance(data, DataSplits):
            raise AetheriaError(
                "Batches: expected one set of examples, got DataSplits; make one of `.train` and "
                "one of `.eval`"
            )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise AetheriaError(
                f"Batches, batch_size: expected a whole number of at least 1, got {batch_size!r}; "
                "say how many examples a batch has"
            )
        source, self.notes = check_source("data", as_source(data, "data", None), {})
        augmentation = None
        if augment is not None:
            from aetheria.data.augmentation import Augmentation

            augmentation = Augmentation(augment, source, {}, seed)
        self._feed = Feed(
            splits=DataSplits(source, source),
            batch_size=batch_size,
            num_slices=1,
            seed=seed,
            augment=augmentation,
            num_readers=num_readers,
        )

    def __len__(self) -> int:
        """The number of examples; `examples_seen // len(batches)` is the number of whole epochs."""
        return self._feed.num_train_examples

    def train(self, examples_seen: int = 0) -> Iterator[TrainBatch]:
        """Yields batches without end, each epoch in its own order, from a position on."""
        return self._train(examples_seen)

    def once(self) -> Iterator[Columns]:
        """Yields all examples once, in their order: for evaluation."""
        return self._feed.eval_batches()

    def example(self) -> Columns:
        """A batch of the right shapes, made of the first example: to initialize a model with."""
        return {name: column[0] for name, column in self._feed.example_global_batch().items()}

    def _train(self, seen: int) -> Generator[TrainBatch, None, None]:
        for chunk in self._feed.train_chunks(seen, _READ_AHEAD):
            for index, count in enumerate(chunk.num_examples):
                seen += count
                yield TrainBatch(seen, {n: a[index, 0] for n, a in chunk.arrays.items()})


def load_data(data_name: str, **data_params: object) -> DataSplits:
    """Makes a dataset that a config can name, such as `digits` or `csv`, or one of the `data/`
    beside the current folder.

    Raises:
        AetheriaError: there is no such dataset, or it cannot be read.
    """
    return make_dataset(data_name, data_params, find_project(None), {}).splits
