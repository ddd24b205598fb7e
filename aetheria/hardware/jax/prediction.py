"""The prediction program: one model's `predict`, compiled for a few batch sizes, for any thread.

Knows neither a snapshot's files nor training.
"""

import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from aetheria.errors import AetheriaError
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.layout.leaves import (
    Weights,
    abstract_weights,
    evaluated_leaves,
    place_weights,
)
from aetheria.hardware.layout.trees import Leaves, Tree
from aetheria.model.contract import call_hook, check_rows
from aetheria.model.example_spec import example_shapes
from aetheria.model.model import Model
from aetheria.model.nesting import nested_columns
from aetheria.model.precision import Precision
from aetheria.plugins.user_code import named_frames


class PredictProgram:
    """Pads every batch to a power of two, so that few shapes are compiled, each once.

    Args:
        model: the model.
        example_spec: column name -> {"shape", "dtype"} of one example, as a snapshot records it.
        mixed_precision: whether to compute in bfloat16; or a precision policy.
        trained_with: the `mixed_precision` of the snapshot, which says in which dtype its
            parameters are kept.
        max_batch_size: larger batches are cut into pieces of this size, a power of two.
    """

    def __init__(
        self,
        model: Model,
        example_spec: Mapping[str, object],
        *,
        mixed_precision: bool | str,
        trained_with: bool | str = False,
        max_batch_size: int = 1024,
    ):
        if max_batch_size < 1 or max_batch_size & (max_batch_size - 1):
            raise AetheriaError(
                f"max_batch_size: expected a power of two, got {max_batch_size}; use 1024"
            )
        self._model = model
        self._precision = Precision.parse(mixed_precision)
        self._max_batch_size = max_batch_size
        self._compiled: dict[tuple[int, bool], Any] = {}
        self._lock = threading.Lock()
        batch = example_shapes(example_spec, "checkpoint_path")
        nested = nested_columns(batch)
        if "inputs" not in nested:
            raise AetheriaError(
                f"predict: expected a model trained on a column 'inputs', got {', '.join(batch)}; "
                "name what the network sees so in its dataset, a mapping if it is several columns"
            )
        self._inputs = nested["inputs"]
        self._abstract = abstract_weights(model, Precision.parse(trained_with), batch)

    def place(self, arrays: Leaves) -> Weights:
        """Puts the weights of an exported state on the default device; averaged ones, if any.

        Raises:
            SnapshotError: they are another model's; the leaf is named.
        """
        return place_weights(evaluated_leaves(arrays), self._abstract, "checkpoint_path")

    def run(self, weights: Weights, inputs: Tree, *, probabilities: bool = False) -> Tree:
        """Predicts for `inputs` [batch, ...], or a mapping of them if the model was trained on one;
        returns NumPy outputs [batch, ...].

        Raises:
            AetheriaError: the inputs are not shaped like the ones the model was trained on.
        """
        inputs, size = self._check(inputs)
        step = self._max_batch_size
        cuts = [slice(start, start + step) for start in range(0, max(size, 1), step)]
        pieces = [self._run_piece(weights, _rows(inputs, cut), probabilities) for cut in cuts]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def compile(self, batch_size: int, probabilities: bool = False) -> tuple[int, Any]:
        """Returns the bucket of a batch size and its executable, compiled at the first call."""
        bucket = min(1 << max(batch_size - 1, 0).bit_length(), self._max_batch_size)
        key = (bucket, probabilities)
        if key not in self._compiled:
            with self._lock:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(bucket, probabilities)
        return bucket, self._compiled[key]

    def _compile(self, bucket: int, probabilities: bool) -> Any:
        def predict(weights: Weights, inputs: Tree) -> Tree:
            params = self._precision.cast_params(weights.params)
            inputs = self._precision.cast_inputs(inputs)
            outputs = call_hook(self._model, "predict", params, weights.model_state, inputs)
            check_rows(self._model, "predict", outputs, bucket)
            outputs = self._model.probabilities(outputs) if probabilities else outputs
            return self._precision.cast_outputs(outputs)

        inputs = jax.tree.map(
            lambda spec: jax.ShapeDtypeStruct((bucket, *spec.shape[1:]), spec.dtype), self._inputs
        )
        jit = jit_for(jax.default_backend())
        with named_frames():
            return jit(predict).lower(self._abstract, inputs).compile()

    def _run_piece(self, weights: Weights, piece: Tree, probabilities: bool) -> Tree:
        size = len(jax.tree.leaves(piece)[0])
        bucket, executable = self.compile(size, probabilities)
        if size < bucket:
            piece = jax.tree.map(lambda column: _pad(column, bucket), piece)
        outputs = jax.device_get(executable(weights, piece))
        return jax.tree.map(lambda a: a[:size], outputs)

    def _check(self, inputs: Tree) -> tuple[Tree, int]:
        """Returns the inputs as arrays like those of training, and their number of rows."""
        checked = _like(self._inputs, inputs, "inputs")
        sizes = {len(column) for column in jax.tree.leaves(checked)}
        if len(sizes) != 1:
            raise AetheriaError(
                f"predict: expected inputs of as many rows in every column, got {sorted(sizes)}; "
                "give every example every column"
            )
        return checked, sizes.pop()


def _like(spec: Tree, inputs: Tree, name: str) -> Tree:
    """Checks inputs, or a mapping of them, against those the model was trained on."""
    if not isinstance(spec, Mapping):
        return _column_like(spec, inputs, name)
    if not isinstance(inputs, Mapping) or set(inputs) != set(spec):
        got = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise AetheriaError(
            f"predict: expected {name} as a mapping of {', '.join(spec)}, got {got}; "
            "give the columns of training"
        )
    return {key: _like(part, inputs[key], f"{name}/{key}") for key, part in spec.items()}


def _column_like(spec: jax.ShapeDtypeStruct, inputs: ArrayLike, name: str) -> np.ndarray:
    try:
        array = np.asarray(inputs)
    except ValueError as error:
        raise AetheriaError(f"predict: expected an array, got {error}") from error
    if array.ndim == 0 or array.shape[1:] != spec.shape[1:]:
        dims = ", ".join(str(dim) for dim in ("batch", *spec.shape[1:]))
        raise AetheriaError(
            f"predict: expected {name} [{dims}], got {list(array.shape)}; "
            "give a batch of examples shaped as in training"
        )
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise AetheriaError(
            f"predict: expected {name} of {spec.dtype}, got {array.dtype}; convert them"
        )
    return array.astype(spec.dtype, copy=False)


def _rows(inputs: Tree, cut: slice) -> Tree:
    return jax.tree.map(lambda column: column[cut], inputs)


def _pad(column: np.ndarray, size: int) -> np.ndarray:
    # A real row, not zeros, for the same reason as in training; any row if there is none.
    filler = column[-1:] if len(column) else np.zeros((1, *column.shape[1:]), column.dtype)
    return np.concatenate([column, np.repeat(filler, size - len(column), axis=0)])
