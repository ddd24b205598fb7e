"""Prediction as plain functions, for scripts and notebooks.

>>> from aetheria import predict
>>> predict.load("no/such/snapshot")
Traceback (most recent call last):
...
aetheria.errors.SnapshotError: snapshot: expected one at no/such/snapshot, got nothing there; ...
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from aetheria.errors import AetheriaError
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


def predict_batches(
    model: Predictor | str | Path,
    batches: Iterable[Any] | np.ndarray | str | Path,
    *,
    probabilities: bool = False,
    batch_size: int | None = None,
) -> Iterator[Any]:
    """Predicts for one batch after another, in order, holding a few batches in memory.

    Args:
        model: a predictor, or a path, which is loaded first.
        batches: batches as `Predictor.predict` takes them, each of which is read when its outputs
            are asked for; or an array [num_rows, ...], which may be memory-mapped, or the path of a
            `.npy`, `.npz`, `.csv`, `.jsonl` or `.parquet` file or of a folder of pictures, which is
            cut into batches.
        probabilities: class probabilities, as of `predict_proba`.
        batch_size: the rows in a batch of an array or a file; None: 1024, or fewer if their inputs
            take over 64 MiB.

    Returns:
        The outputs of each batch, [batch, ...].

    Raises:
        AetheriaError: the path leads to nothing that can be read; or, when a batch is asked for, a
            row is not like those of training.
    """
    predictor = _predictor(model)
    is_source = isinstance(batches, str | Path | np.ndarray)
    if not is_source or _holds_batches(predictor, batches):
        if batch_size is not None:
            raise AetheriaError(
                f"batch_size: expected none with batches that are made already, got {batch_size}; "
                "leave it out, or give an array or a path"
            )
        call = predictor.predict_proba if probabilities else predictor.predict
        return (call(batch) for batch in cast(Iterable[Any], batches))
    from aetheria.tools.predict.arrays import ArrayInput
    from aetheria.tools.predict.inputs import open_input
    from aetheria.tools.predict.stream import default_batch_size, expected_by, predict_input

    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise AetheriaError(
            f"batch_size: expected a whole number of 1 or more, got {batch_size!r}; use 1024"
        )
    expected = expected_by(predictor)
    if isinstance(batches, np.ndarray):
        source = ArrayInput(batches, expected, "batches")
    else:
        source = open_input(Path(cast(str, batches)), expected)
    size = batch_size or default_batch_size(expected)
    return predict_input(predictor, source, start=0, batch_size=size, probabilities=probabilities)


def evaluate(
    model: Predictor | str | Path,
    data: Any = None,
    *,
    split: str = "eval",
    metrics: Sequence[str] | None = None,
    strategy: str | None = None,
    project: str | Path | None = None,
) -> dict[str, float]:
    """Evaluates a verified snapshot as its run did: in the same batches, with the same metrics, and
    with the averaged parameters if the run kept an average.

    Args:
        model: a snapshot, a run such as `runs/mlp/1@best`, or a predictor of one.
        data: what to evaluate on, as `aetheria.train(data=…)` takes it: the evaluation splits of
            it, or all of it if it has none. Also the path of a `.csv`, `.parquet` or `.npz` file,
            or of a folder of pictures; a table is encoded as in training. None: the run's own data.
        split: of the run's own data: `eval` for all evaluation splits, the name of one of them,
            `test`, or `train`.
        metrics: what to compute beside the means, such as `["f1", "confusion"]`; None: as in
            training.
        strategy: where to compute, `auto`, `cpu`, `gpu` or `mesh`; None: as in training.
        project: the folder that holds your `models/` and `data/`; None: the current folder.

    Returns:
        The metrics by the names that a run gives them: `eval/loss`, and `eval/ood/loss` of each of
        several evaluation splits. With the strategy of training and the run's own data, they are
        those of the run, bit for bit.

    Raises:
        AetheriaError: there is no such snapshot or split, or the data is not like that of training.
    """
    from aetheria.plugins.discovery import find_project
    from aetheria.tools.evaluate.evaluation import EvaluationRequest, evaluate_snapshot

    if data is not None and split != "eval":
        raise AetheriaError(
            f"split: expected none beside data, got {split!r}; leave one of them out"
        )
    is_loaded = isinstance(model, Predictor)
    request = EvaluationRequest(
        split=split,
        data=data,
        metrics=metrics,
        strategy=strategy,
        project=find_project(None, project),
        model=model.model if is_loaded else None,
    )
    return evaluate_snapshot(model.snapshot if is_loaded else model, request).metrics


def _holds_batches(predictor: Predictor, array: Any) -> bool:
    """Whether an array [num_batches, batch, ...] has one dim more than rows have."""
    spec = predictor.input_spec
    return isinstance(array, np.ndarray) and array.ndim == getattr(spec, "ndim", 0) + 1


def _predictor(model: Predictor | str | Path) -> Predictor:
    return model if isinstance(model, Predictor) else load(model)
