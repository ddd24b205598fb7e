"""What a report says of each layer: its rows, and the metrics and histograms that the host makes of
them. Knows neither the step that computes the rows nor who reads them.
"""

from collections.abc import Mapping, Sequence
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


class Part(NamedTuple):
    """A parameter of a layer.

    Attributes:
        path: of the parameter.
        layer: its number in the parameter's first dim, where it stacks layers; None: it is whole.
    """

    path: str
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayerRows:
    """The rows of a report for the layers of one model.

    The rows of a layer are its norms (value, 1), the ratio (norm of the update, norm of the
    parameters), and for each histogram the smallest value, the largest, and the counts. In a step
    that is not logged, and in one that is skipped, all of them are 0.

    Attributes:
        layers: the name of each layer -> its parameters.
        every_steps: the interval between the steps in which they are computed.
        num_bins: of each histogram; 0: there are none.
    """

    layers: Mapping[str, tuple[Part, ...]]
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


def make_layer_rows(
    asked: LayerStatistics, params: Mapping[str, ArraySpec], stacked: Sequence[str] = ()
) -> LayerRows:
    """Groups parameters into layers, in their order; those without an element are left out.

    Args:
        asked: what to compute.
        params: path -> shape and dtype.
        stacked: the paths below which parameters stack layers in their first dim. Each is taken
            apart: the number of the layer follows this path in the name.

    >>> asked = LayerStatistics(depth=2, every_steps=10)
    >>> params = {"head/bias": ArraySpec((4,), "float32"), "h/mlp/kernel": ArraySpec((2, 4, 4), "")}
    >>> {layer: [*map(tuple, parts)] for layer, parts in
    ...  make_layer_rows(asked, params, ["h"]).layers.items()}
    {'head/bias': [('head/bias', None)], 'h/0': [('h/mlp/kernel', 0)], 'h/1': [('h/mlp/kernel', 1)]}
    """
    layers: dict[str, tuple[Part, ...]] = {}
    for path, spec in params.items():
        if 0 in spec.shape:
            continue
        for name, part in _parts(path, spec, stacked):
            layer = "/".join(name.split("/")[: asked.depth])
            layers[layer] = (*layers.get(layer, ()), part)
    return LayerRows(layers=layers, every_steps=asked.every_steps, num_bins=asked.num_bins)


def _parts(path: str, spec: ArraySpec, stacked: Sequence[str]) -> list[tuple[str, Part]]:
    """The parts of a parameter, each with a path of its own, by which it is grouped."""
    for stack in stacked:
        if path.startswith(f"{stack}/") and spec.shape:
            rest = path.removeprefix(f"{stack}/")
            return [(f"{stack}/{i}/{rest}", Part(path, i)) for i in range(spec.shape[0])]
    return [(path, Part(path))]
