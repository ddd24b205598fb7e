"""Datasets for tests of the guard: digits with a bad number at a known place of a known step."""

import dataclasses

import numpy as np

from aetheria.data.datasets import digits
from aetheria.data.feed import epoch_order
from aetheria.data.sources import ArraySource, DataSplits
from aetheria.events import RunStarted
from support.runs import DIGITS

# A NaN in one example of micro-batch 2 of 4, at step 13; on 8 devices it meets one of them.
BAD = {
    **DIGITS,
    "data_name": "support.nonfinite_data:poisoned",
    "grad_accumulation_steps": 4,
    "epochs": 1,
    "loggers": ["jsonl"],
    "snapshot": {"every_steps": 10},
}


def poisoned(
    *, steps: tuple[int, ...] = (13,), micro: int = 1, row: int = 5, micro_batch: int = 16
) -> DataSplits:
    """Digits; in each of `steps` of epoch 1, at seed 0, batch size 64, one example is NaN: the one
    in `row` of micro-batch `micro`, both counted from 0.
    """
    splits = digits()
    columns = splits.train.read(np.arange(len(splits.train)))
    order = epoch_order(0, 0, len(splits.train))
    for step in steps:
        columns["inputs"][order[64 * (step - 1) + micro_batch * micro + row], 7] = np.nan
    return DataSplits(train=ArraySource(columns), eval=splits.eval)


class _Glitch:
    """Gives the poisoned data the first time a window is read, and the right data ever after."""

    in_memory = True

    def __init__(self, good, bad):
        self._good, self._bad, self._seen = good, bad, set()

    def __len__(self):
        return len(self._good)

    def read(self, indices):
        good, bad = self._good.read(indices), self._bad.read(indices)
        if len(indices) < 64:  # a look at the data when the run starts
            return good
        for place, index in enumerate(indices):
            if np.isnan(bad["inputs"][place]).any() and int(index) not in self._seen:
                self._seen.add(int(index))
                good["inputs"][place] = bad["inputs"][place]
        return good


def glitching(**where) -> DataSplits:
    """Poisoned digits, but the bad number is there only once: what a fault of a machine gives."""
    splits = poisoned(**where)
    return dataclasses.replace(splits, train=_Glitch(digits().train, splits.train))


class Vandal:
    """A callback that flips a bit in one snapshot, if it is there, when the run starts."""

    def __init__(self, context, name):
        self._folder, self._name = context.run_dir / "checkpoints", name

    def notify(self, event):
        if isinstance(event, RunStarted) and (self._folder / self._name).exists():
            files = [f for f in (self._folder / self._name / "state").rglob("*") if f.is_file()]
            largest = max(files, key=lambda file: file.stat().st_size)
            content = bytearray(largest.read_bytes())
            content[len(content) // 2] ^= 1
            largest.write_bytes(content)
