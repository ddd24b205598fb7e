"""What every backend needs to know of a run to make its program. No device and no model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """What is computed of each layer, in the steps that are logged.

    Attributes:
        depth: how many names of a parameter's path make the name of its layer, 1 or more.
        every_steps: the interval between these steps.
        num_bins: of the histograms of gradient and update; 0: there are none.
    """

    depth: int
    every_steps: int
    num_bins: int = 0


@dataclass(frozen=True, kw_only=True)
class ProgramSpec:
    """What a program is compiled for.

    Attributes:
        example_global_batch: one of the run's shapes, host arrays [num_slices, slice_size, ...];
            the slices are micro-batches, or lanes.
        total_steps: the length of the run, for the model's schedule.
        seed: the run's seed.
        mixed_precision: whether to compute in bfloat16; or a precision policy.
        max_consecutive_skips: non-finite global batches in a row after which the state freezes.
        chunk_size: the most steps in a call -> the global batches in each chunk of the data; None:
            not known, so that nothing is compiled before the first chunk.
        deterministic: whether every process computes the same bits, also on a GPU.
        spot_checks: whether the devices check each other at some steps.
        peak_flops: operations a second of one device at most; 0: not known; None: that of its kind.
        layer_statistics: what reports say of each layer; None: nothing.
    """

    example_global_batch: Mapping[str, np.ndarray]
    total_steps: int
    seed: int
    mixed_precision: bool | str
    max_consecutive_skips: int
    chunk_size: Callable[[int], int] | None = None
    deterministic: bool = True
    spot_checks: bool = False
    peak_flops: float | None = None
    layer_statistics: LayerStatistics | None = None
