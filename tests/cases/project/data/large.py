"""Regression on small numbers, one of which may be large: row 105 of the training split."""

import numpy as np

from aetheria import ArraySource, DataSplits, register_data
from aetheria.data.datasets import digits

ROW = 105


@register_data("small_numbers")
def small_numbers(*, large: float = 0.0, split: str = "train"):
    rng = np.random.default_rng(0)
    columns = {
        name: {
            "inputs": rng.uniform(-1e-2, 1e-2, (size, 4)).astype(np.float32),
            "labels": rng.uniform(-1, 1, size).astype(np.float32),
        }
        for name, size in (("train", 256), ("eval", 64))
    }
    if large:
        columns[split]["inputs"][ROW % len(columns[split]["labels"]), 2] = large
    return DataSplits(train=ArraySource(columns["train"]), eval=ArraySource(columns["eval"]))


@register_data("bad_eval_digits")
def bad_eval_digits():
    splits = digits()
    columns = splits.eval.read(np.arange(len(splits.eval)))
    columns["inputs"][41, 3] = np.nan
    return DataSplits(train=splits.train, eval=ArraySource(columns))


@register_data("large_pixel")
def large_pixel():
    """Images of noise; one pixel, whose square overflows, in row 105."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (256, 4, 4, 1)).astype(np.float32)
    labels = rng.integers(0, 10, 256).astype(np.int32)
    images[ROW, 2, 2] = 1e25
    columns = {"inputs": images, "labels": labels}
    sound = {name: column[:64] for name, column in columns.items()}
    return DataSplits(train=ArraySource(columns), eval=ArraySource(sound))
