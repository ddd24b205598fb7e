"""Joins calls to a predictor: which may be computed together, and the computation."""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from aetheria.hardware.jax.joining.batching import MicroBatcher
from aetheria.hardware.jax.joining.equal_bits import (
    BucketSets,
    measure_equal_buckets,
    probe_rows,
)
from aetheria.hardware.jax.prediction import num_rows, power_of_two


class Predicts(Protocol):
    """What is asked of a predictor; see `aetheria.inference.Predictor`."""

    @property
    def input_spec(self) -> Any: ...
    @property
    def input_ranges(self) -> Mapping[str, tuple[float, float]]: ...
    @property
    def min_batch_size(self) -> int: ...
    @property
    def has_probabilities(self) -> bool: ...
    def predict(self, inputs: Any) -> Any: ...
    def predict_proba(self, inputs: Any) -> Any: ...
    def encode(self, inputs: Any) -> tuple[Any, bool]: ...
    def reload(self, checkpoint_path: Any = None) -> None: ...


class Joinable:
    """A predictor, and which batch sizes of it give a row the same bits: measured when it is made.

    Attributes:
        predictor: computes the answers; its weights stay as they are.
        equal_buckets: probabilities or not -> batch size -> sizes of equal bits.
    """

    def __init__(self, predictor: Predicts, max_rows: int):
        self.predictor = predictor
        least = predictor.min_batch_size
        probe = probe_rows(predictor.input_spec, predictor.input_ranges, max(max_rows, least))
        # A copy computes the probe: a predictor compares its first inputs with those of training.
        tried = copy.copy(predictor)
        ways = {False: tried.predict}
        if predictor.has_probabilities:
            ways[True] = tried.predict_proba
        self.equal_buckets: Mapping[bool, BucketSets] = {
            wanted: measure_equal_buckets(compute, probe, min_rows=least)
            for wanted, compute in ways.items()
        }

    def bucket(self, rows: int) -> int:
        """The batch size at which so many rows are computed."""
        return max(power_of_two(rows), self.predictor.min_batch_size)


class _Group(NamedTuple):
    """Calls that may be computed together: of the same weights, and of sizes of equal bits."""

    joinable: Joinable
    probabilities: bool
    buckets: frozenset[int]


class Joiner:
    """Computes calls in a few threads; calls that wait at the same time are joined where every
    answer keeps the bits that it has alone.

    Args:
        max_rows: calls are joined up to so many rows.
        max_delay_seconds: how long a call waits for others, from its arrival; 0: none are joined.
        num_threads: how many computations run at once.
        on_batch: is called with the numbers of calls and rows of each computation.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        max_delay_seconds: float,
        num_threads: int = 2,
        on_batch: Callable[[int, int], None] = lambda num_calls, num_rows: None,
    ):
        self._max_rows, self._max_delay_seconds = max_rows, max_delay_seconds
        self._batcher = MicroBatcher[_Group](
            _compute,
            may_join=self._may_join,
            max_delay_seconds=max_delay_seconds,
            num_threads=num_threads,
            on_batch=on_batch,
        )

    def submit(self, joinable: Joinable, inputs: Any, *, probabilities: bool) -> Future[Any]:
        """Queues arrays as the model sees them; the future gets outputs of as many rows."""
        rows = num_rows(inputs)
        buckets = joinable.equal_buckets[probabilities].get(joinable.bucket(rows), frozenset())
        return self._batcher.submit(_Group(joinable, probabilities, buckets), inputs, rows)

    def close(self) -> None:
        """Answers what is queued, and ends the threads."""
        self._batcher.close()

    def _may_join(self, group: _Group, rows: int) -> bool:
        return (
            self._max_delay_seconds > 0
            and rows <= max(self._max_rows, group.joinable.predictor.min_batch_size)
            and group.joinable.bucket(rows) in group.buckets
        )


def _compute(group: _Group, batches: Sequence[Any]) -> Sequence[Any]:
    """Answers batches at once, and cuts the answer into theirs."""
    predictor = group.joinable.predictor
    predict = predictor.predict_proba if group.probabilities else predictor.predict
    if len(batches) == 1:
        return [predict(batches[0])]
    joined = predict(jax.tree.map(lambda *parts: np.concatenate(parts), *batches))
    answers, start = [], 0
    for batch in batches:
        end = start + num_rows(batch)
        answers.append(jax.tree.map(lambda a, s=start, e=end: a[s:e], joined))
        start = end
    return answers
