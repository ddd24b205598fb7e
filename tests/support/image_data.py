"""Real images that come with scikit-learn, large enough for two poolings."""

import numpy as np

from aetheria.data.datasets import digits
from aetheria.data.sources import ArraySource, DataSplits


def images() -> DataSplits:
    """Digits as images [16, 16, 1]: each pixel four times, and noise, so that none ties."""

    def enlarge(source):
        columns = source.read(np.arange(len(source)))
        pixels = columns["inputs"].reshape(-1, 8, 8, 1).repeat(2, axis=1).repeat(2, axis=2)
        noise = np.random.default_rng(0).normal(size=pixels.shape).astype(np.float32)
        return ArraySource({**columns, "inputs": pixels + 0.1 * noise})

    splits = digits()
    return DataSplits(train=enlarge(splits.train), eval=enlarge(splits.eval))
