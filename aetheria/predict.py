"""Prediction as plain functions, for scripts and notebooks.

>>> from aetheria import predict
>>> predict.load("no/such/snapshot")
Traceback (most recent call last):
...
aetheria.errors.SnapshotError: snapshot: expected one at no/such/snapshot, got nothing there; ...
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aetheria.inference import Predictor


def load(path: str | Path, **options: Any) -> Predictor:
    """Makes a predictor of a snapshot, a run folder, or `checkpoints/snapshot_ep10`.

    Args:
        path: what `Predictor` calls `checkpoint_path`.
        options: anything else `Predictor` takes.
    """
    return Predictor(checkpoint_path=path, **options)


def predict(model: Predictor | str | Path, inputs: Any) -> Any:
    """Predicts for `inputs` [batch, ...]; a path is loaded first, for this one call."""
    return _predictor(model).predict(inputs)


def predict_proba(model: Predictor | str | Path, inputs: Any) -> Any:
    """Predicts class probabilities f32 [batch, num_classes]; raises if the model has no classes."""
    return _predictor(model).predict_proba(inputs)


def predict_batches(model: Predictor | str | Path, batches: Iterable[Any]) -> Iterator[Any]:
    """Predicts for one batch after another, each when it is asked for."""
    predictor = _predictor(model)
    return (predictor.predict(batch) for batch in batches)


def _predictor(model: Predictor | str | Path) -> Predictor:
    return model if isinstance(model, Predictor) else load(model)
