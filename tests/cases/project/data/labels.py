"""Labels of the digits as people have them, for a SimpleMLP of ten classes."""

import numpy as np
from sklearn.datasets import load_digits

from aetheria import ArraySource, DataSplits, register_data


@register_data("labels")
def labels(*, kind: str = "plain"):
    x, y = load_digits(return_X_y=True)
    y = {
        "plain": y,
        "one_based": y + 1,  # would be NaN, ten skips, halt
        "minus_one": y - 1,  # would train, -1 read as the last class
        "float": y.astype(float),
        "column": y[:, None],
        "bool": y > 4,
        "one_hot": np.eye(10)[y],
        "one_bad": np.where(np.arange(len(y)) == 700, 10, y),  # would be skipped windows
    }[kind]
    columns = {"inputs": x / 16, "labels": y}
    return DataSplits(
        train=ArraySource({name: c[:1400] for name, c in columns.items()}),
        eval=ArraySource({name: c[1400:] for name, c in columns.items()}),
    )
