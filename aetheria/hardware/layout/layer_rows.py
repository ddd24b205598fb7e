"""What a report says of each layer: its rows, and the metrics and histograms that the host makes of
them. Knows neither the step that computes the rows nor who reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aetheria.engine.interfaces import ArraySpec
from aetheria.events import Histogram
from aetheria.hardware.layout.program_spec import LayerStatistics

# Of a layer's gradient, update and parameters; the ratio is that of the last two.
NORMS = ("grad_norm", "update_norm", "param_norm", "update_ratio")
HISTOGRAMS = ("gradients", "updates")


class LayerReport(NamedTuple):
    """What a fetched report says of the layers; nothing, where it is not of a logged step.

    Attributes:
        metrics: `layers/Dense_0/grad_norm` style names.
        histograms: `gradients/Dense_0` and `updates/Dense_0` style names.
    """

    metrics: Mapping[str, float] = {}
    histograms: Mapping[str, Histogram] = {}


@dataclass(frozen=True, kw_only=True)
class LayerRows:
    """The rows of a report for the layers of one model.

    The rows of a layer are its norms (value, 1), the ratio (norm of the update, norm of the
    parameters), and for each histogram the smallest value, the largest, and the counts. In a step
    that is not logged, and in one that is skipped, all of them are 0.

    Attributes:
        layers: the name of each layer -> the paths of its parameters.
        every_steps: the interval between the steps in which they are computed.
        num_bins: of each histogram; 0: there are none.
    """

    layers: Mapping[str, tuple[str, ...]]
    every_steps: int
    num_bins: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rows."""
        size = self.num_bins + 2 if self.num_bins else 0
        bins = [f"{kind}/{row}" for kind in HISTOGRAMS for row in range(size)]
        return tuple(f"layers/{layer}/{row}" for layer in self.layers for row in (*NORMS, *bins))

    def read(self, values: np.ndarray) -> LayerReport:
        """Reads rows [len(names), 2]; what has no weight is left out."""
        metrics, histograms = {}, {}
        per_layer = len(values) // max(len(self.layers), 1)
        for number, layer in enumerate(self.layers):
            rows = values[number * per_layer :][:per_layer].astype(np.float64)
            for name, (total, weight) in zip(NORMS, rows, strict=False):
                if weight:
                    metrics[f"layers/{layer}/{name}"] = float(total / weight)
            if self.num_bins and rows[0, 1]:
                counted = rows[len(NORMS) :, 0].reshape(len(HISTOGRAMS), -1)
                for kind, (low, high, *counts) in zip(HISTOGRAMS, counted.tolist(), strict=True):
                    edges = np.linspace(low, high, self.num_bins + 1).tolist()
                    histograms[f"{kind}/{layer}"] = Histogram(tuple(edges), tuple(counts))
        return LayerReport(metrics, histograms)


def make_layer_rows(asked: LayerStatistics, params: Mapping[str, ArraySpec]) -> LayerRows:
    """Groups parameters into layers, in their order; those without an element are left out.

    >>> asked = LayerStatistics(depth=1, every_steps=10)
    >>> one = ArraySpec((1,), "float32")
    >>> make_layer_rows(asked, {"a/bias": one, "a/kernel": one, "b": one}).layers
    {'a': ('a/bias', 'a/kernel'), 'b': ('b',)}
    """
    layers: dict[str, tuple[str, ...]] = {}
    for path, spec in params.items():
        if 0 not in spec.shape:
            layer = "/".join(path.split("/")[: asked.depth])
            layers[layer] = (*layers.get(layer, ()), path)
    return LayerRows(layers=layers, every_steps=asked.every_steps, num_bins=asked.num_bins)
