"""A read-only look at the model at an evaluation, which knows no engine and no device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetheria.errors import AetheriaError

# A large parameter is summarized in pieces, since float64 copies of it would take memory.
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ParameterStatistics:
    """Numbers about one parameter. Values that are not finite are counted, and left out of the
    others, which are 0 if no value is finite.

    Attributes:
        shape: of the parameter.
        norm: the Euclidean norm.
        mean: of the values.
        std: their standard deviation.
        min: the smallest value.
        max: the largest value.
        num_nonfinite: how many values are not finite.
    """

    shape: tuple[int, ...]
    norm: float
    mean: float
    std: float
    min: float
    max: float
    num_nonfinite: int


@dataclass(frozen=True, kw_only=True)
class ParameterHistogram:
    """How the finite values of one parameter are distributed.

    Attributes:
        counts: i64 [num_bins].
        edges: f64 [num_bins + 1], rising.
    """

    counts: np.ndarray
    edges: np.ndarray


class ProbeSource(Protocol):
    """Where a probe gets its answers from; all of them are copies in the host's memory."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def predict(self, inputs: Any, *, probabilities: bool) -> Any: ...

    def read(self, split: str, count: int) -> Mapping[str, Any]: ...

    def params(self) -> Mapping[str, np.ndarray]: ...

    def images(self, examples: Mapping[str, Any], outputs: Any) -> Mapping[str, np.ndarray]: ...


class Probe:
    """What a listener may ask about the model at an evaluation, while its `inspect` runs.

    Every answer is a copy: nothing that a listener does with it reaches the run. Predictions are
    those of the parameters that were evaluated, the averaged ones if the run keeps an average.

    Attributes:
        split: the split that was evaluated, as in the event.
    """

    def __init__(self, source: ProbeSource, split: str):
        self._source: ProbeSource | None = source
        self.split = split

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class number; empty: the data has no names."""
        return self._open.classes

    def predict(self, inputs: Any, *, probabilities: bool = False) -> Any:
        """Predicts for `inputs` [batch, ...] as the network sees them, or a mapping of them if the
        model is trained on one; returns NumPy outputs f32 [batch, ...].

        Args:
            inputs: of one example or of a batch.
            probabilities: return class probabilities in place of the network's outputs.

        Raises:
            AetheriaError: the inputs are not shaped like those of training, or the model has no
                classes.
        """
        return self._open.predict(inputs, probabilities=probabilities)

    def examples(self, count: int) -> Mapping[str, Any]:
        """Reads the first `count` examples of the split, or all if it has fewer: column name ->
        [count, ...], or a mapping of such columns.
        """
        return self._open.read(self.split, count)

    def images(self, examples: Mapping[str, Any], outputs: Any) -> Mapping[str, np.ndarray]:
        """Asks the model's hook `images` for pictures of examples: name -> [count, height, width,
        1 or 3]; none, if the model has no such hook.

        Args:
            examples: as the probe's method of that name returns them.
            outputs: what the model predicts for their inputs.

        Raises:
            AetheriaError: the hook returns something else.
        """
        return self._open.images(examples, outputs)

    def parameter_statistics(self) -> dict[str, ParameterStatistics]:
        """Computes numbers about every parameter, on the host: `Dense_0/kernel` -> statistics."""
        return {name: statistics_of(array) for name, array in self._open.params().items()}

    def parameter_histograms(self, num_bins: int = 32) -> dict[str, ParameterHistogram]:
        """Counts the values of every parameter, on the host, in bins of equal width."""
        params = self._open.params()
        return {name: histogram_of(array, num_bins) for name, array in params.items()}

    def close(self) -> None:
        """Ends the look: from here on, every question is an error."""
        self._source = None

    @property
    def _open(self) -> ProbeSource:
        if self._source is None:
            raise AetheriaError(
                "probe: expected to be asked while inspect runs, got a question after it; keep "
                "the answers, not the probe"
            )
        return self._source


def statistics_of(array: np.ndarray) -> ParameterStatistics:
    """Computes the statistics of a parameter, in float64.

    >>> found = statistics_of(np.array([3.0, -4.0, np.nan]))
    >>> found.norm, found.mean, found.min, found.num_nonfinite
    (5.0, -0.5, -4.0, 1)
    """
    count, total, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = _finite(flat[start : start + _PIECE])
        if piece.size:
            count, total = count + piece.size, total + float(piece.sum())
            squares += float(np.square(piece).sum())
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    mean = total / max(count, 1)
    return ParameterStatistics(
        shape=array.shape,
        norm=squares**0.5,
        mean=mean,
        std=max(squares / max(count, 1) - mean**2, 0.0) ** 0.5,
        min=low if count else 0.0,
        max=high if count else 0.0,
        num_nonfinite=flat.size - count,
    )


def histogram_of(array: np.ndarray, num_bins: int) -> ParameterHistogram:
    """Counts the finite values of a parameter.

    >>> histogram_of(np.array([0.0, 0.1, 1.0, np.inf]), 2).counts.tolist()
    [2, 1]
    """
    counts, edges = np.histogram(_finite(array.reshape(-1)), num_bins)
    return ParameterHistogram(counts=counts, edges=edges)


def _finite(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    return wide[np.isfinite(wide)]
