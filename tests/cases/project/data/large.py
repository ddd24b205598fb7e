"""Regression on small numbers, one of which may be large: row 105 of the training split."""

import numpy as np

from aetheria import ArraySource, DataSplits, register_data

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
