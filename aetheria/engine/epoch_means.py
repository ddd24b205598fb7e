"""Means over the epoch that a run is in, made of reports whose intervals need not end with it."""

from collections.abc import Mapping, Sequence

from aetheria.engine.record import Sums


class EpochMeans:
    """Adds up the sums of logging intervals, as far as their steps belong to the current epoch.

    A report holds sums over the steps since the last logging step. `carried` is what must be added
    to them for the sums of the epoch: the earlier intervals of the epoch, less what the open
    interval held when the epoch began. It is part of a snapshot, so that a resume changes no mean.

    Attributes:
        carried: metric -> [sum, weight].
    """

    def __init__(self) -> None:
        self.carried: Mapping[str, Sums] = {}

    def means(self, interval: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """The weighted means over the epoch so far; a metric without weight is left out."""
        sums = self._with(interval)
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def end_interval(self, interval: Mapping[str, Sequence[float]]) -> None:
        """The next report begins anew; `interval` is what the last one held."""
        self.carried = self._with(interval)

    def end_epoch(self, open_interval: Mapping[str, Sequence[float]]) -> None:
        """The epoch ends within an interval that holds so much by now."""
        self.carried = {name: (-total, -weight) for name, (total, weight) in open_interval.items()}

    def _with(self, interval: Mapping[str, Sequence[float]]) -> dict[str, Sums]:
        sums = {}
        for name, (total, weight) in interval.items():
            carried_total, carried_weight = self.carried.get(name, (0.0, 0.0))
            sums[name] = (carried_total + total, carried_weight + weight)
        return sums
