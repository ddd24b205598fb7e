"""Data whose size and values the tests change."""

from pathlib import Path

import numpy as np

from aetheria import ArraySource, DataSplits, RecordSource, register_data


class Augmented:
    """Another value at every read."""

    def __init__(self, columns):
        self._columns, self._random = columns, np.random.default_rng()

    def __len__(self):
        return len(self._columns["labels"])

    def read(self, indices):
        columns = {name: column[indices] for name, column in self._columns.items()}
        noise = self._random.normal(size=columns["inputs"].shape)
        return {**columns, "inputs": (columns["inputs"] + noise).astype(np.float32)}


@register_data("rows")
def rows(*, folder: str, kind: str = "array", offset: float = 0.0) -> DataSplits:
    saved = np.load(Path(folder) / "rows.npz")
    columns = {"inputs": saved["inputs"] + np.float32(offset), "labels": saved["labels"]}
    evaluated = ArraySource({name: column[:100] for name, column in columns.items()})
    if kind == "records":
        names = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        return DataSplits(train=RecordSource(names), eval=evaluated)
    train = Augmented(columns) if kind == "augmented" else ArraySource(columns)
    return DataSplits(train=train, eval=evaluated)
