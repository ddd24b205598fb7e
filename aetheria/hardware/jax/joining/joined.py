"""A predictor whose concurrent calls are computed together."""

import copy
from typing import Any

import jax

from aetheria.errors import AetheriaError
from aetheria.hardware.jax.joining.joiner import Joinable, Joiner, Predicts


class JoinedPredictor:
    """Answers calls of many threads by fewer computations, with the bits that each answer has
    alone. Made by `Predictor.joined`; a context manager, whose end answers what is queued.
    """

    def __init__(
        self, predictor: Predicts, *, max_delay_seconds: float, max_rows: int, num_threads: int
    ):
        _check("max_delay_seconds", max_delay_seconds, least=0)
        _check("max_rows", max_rows, least=1)
        _check("num_threads", num_threads, least=1)
        self._max_rows = max_rows
        # A reload of the predictor it was made from does not reach it.
        self._joinable = Joinable(copy.copy(predictor), max_rows)
        self._num_batches = 0
        self._joiner = Joiner(
            max_rows=max_rows,
            max_delay_seconds=max_delay_seconds,
            num_threads=num_threads,
            on_batch=self._count,
        )

    @property
    def num_batches(self) -> int:
        """How many computations were made for all calls so far."""
        return self._num_batches

    def predict(self, inputs: Any) -> Any:
        """As `Predictor.predict`; raises AetheriaError if it is closed, too."""
        return self._answer(inputs, probabilities=False)

    def predict_proba(self, inputs: Any) -> Any:
        """As `Predictor.predict_proba`; raises AetheriaError if it is closed, too."""
        return self._answer(inputs, probabilities=True)

    def reload(self, checkpoint_path: Any = None) -> None:
        """As `Predictor.reload`: each answer is wholly of the old weights or of the new."""
        predictor = copy.copy(self._joinable.predictor)
        predictor.reload(checkpoint_path)
        self._joinable = Joinable(predictor, self._max_rows)

    def close(self) -> None:
        """Answers what is queued, and ends; a second time, does nothing."""
        self._joiner.close()

    def __enter__(self) -> "JoinedPredictor":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self, inputs: Any, *, probabilities: bool) -> Any:
        joinable = self._joinable
        predictor = joinable.predictor
        if probabilities and not predictor.has_probabilities:
            return predictor.predict_proba(inputs)  # raises: there are no classes
        arrays, is_single = predictor.encode(inputs)
        try:
            future = self._joiner.submit(joinable, arrays, probabilities=probabilities)
        except RuntimeError as error:
            raise AetheriaError(
                "predict: expected a joined predictor that is open, got a closed one; make another"
            ) from error
        outputs = future.result()
        return jax.tree.map(lambda leaf: leaf[0], outputs) if is_single else outputs

    def _count(self, num_calls: int, num_rows: int) -> None:
        self._num_batches += 1


def _check(name: str, value: float, *, least: int) -> None:
    if not value >= least:
        raise AetheriaError(f"{name}: expected {least} or more, got {value}; leave it out")
