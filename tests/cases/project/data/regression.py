"""A line with noise: labels [n], one a row."""

import numpy as np

from aetheria import ArraySource, DataSplits, register_data


@register_data("regression")
def regression(*, num_examples: int = 64, fails_at: int | None = None):
    x = np.random.default_rng(0).normal(size=(num_examples, 10))
    columns = {"inputs": x, "labels": x.sum(1)}
    source = ArraySource(columns)
    return DataSplits(train=source if fails_at is None else _Fails(columns, fails_at), eval=source)


class _Fails(ArraySource):
    """Raises when it is read for the n-th time, in the thread that reads ahead."""

    in_memory = False

    def __init__(self, columns, at):
        super().__init__(columns)
        self._reads, self._at = 0, at

    def read(self, indices):
        self._reads += 1
        if self._reads > self._at:
            raise OSError(f"read {self._reads} failed")
        return super().read(indices)
