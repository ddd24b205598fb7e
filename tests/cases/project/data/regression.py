"""A line: labels [n], one a row."""

import threading

import numpy as np

from aetheria import ArraySource, DataSplits, register_data


@register_data("regression")
def regression(*, fails: bool = False):
    x = np.random.default_rng(0).normal(size=(64, 10))
    columns = {"inputs": x, "labels": x.sum(1)}
    source = ArraySource(columns)
    return DataSplits(train=_Fails(columns) if fails else source, eval=source)


class _Fails(ArraySource):
    """Raises within a run, in the thread that reads ahead."""

    in_memory = False

    def read(self, indices):
        if threading.current_thread() is not threading.main_thread():
            raise OSError("the disk is gone")
        return super().read(indices)
