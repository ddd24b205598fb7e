"""The prediction program: one model's `predict`, compiled for a few batch sizes, for any thread."""

import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from aetheria.errors import AetheriaError
from aetheria.hardware.compiler import jit_for
from aetheria.logic.leaves import (
    Weights,
    abstract_weights,
    evaluated_leaves,
    place_weights,
)
from aetheria.logic.model import Model
from aetheria.logic.precision import Precision


class PredictProgram:
    """Pads every batch to a power of two, so that few shapes are compiled, each of them once.

    Args:
        model: the model.
        example_spec: column name -> {"shape", "dtype"} of one example, as a snapshot records it.
        mixed_precision: compute in bfloat16; or a precision policy.
        trained_with: the `mixed_precision` of the snapshot, which says what its parameters are kept
            in.
        max_batch_size: larger batches are cut into pieces of this size, a power of two.
    """

    def __init__(
        self,
        model: Model,
        example_spec: Mapping[str, Mapping[str, Any]],
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
        batch = {
            name: jax.ShapeDtypeStruct((1, *spec["shape"]), np.dtype(spec["dtype"]))
            for name, spec in example_spec.items()
        }
        if "inputs" not in batch:
            raise AetheriaError(
                f"predict: expected a model trained on a column 'inputs', got {', '.join(batch)}; "
                "name what the network sees so in its dataset"
            )
        self._inputs = batch["inputs"]
        self._abstract = abstract_weights(model, Precision.parse(trained_with), batch)

    def place(self, arrays: Mapping[str, Any]) -> Weights:
        """Puts the weights of an exported state on the default device; averaged ones, if any.

        Raises:
            SnapshotError: they are not this model's; the leaf is named.
        """
        return place_weights(evaluated_leaves(arrays), self._abstract, "checkpoint_path")

    def run(self, weights: Weights, inputs: Any, *, probabilities: bool = False) -> Any:
        """Predicts for `inputs` [batch, ...]; returns NumPy outputs [batch, ...].

        Raises:
            AetheriaError: the inputs are not shaped like the ones the model was trained on.
        """
        inputs, size = self._check(inputs)
        step = self._max_batch_size
        pieces = [
            self._run_piece(weights, inputs[start : start + step], probabilities)
            for start in range(0, max(size, 1), step)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def compile(self, batch_size: int, probabilities: bool = False) -> tuple[int, Any]:
        """The bucket of a batch size and its executable, compiled at the first call."""
        bucket = min(1 << max(batch_size - 1, 0).bit_length(), self._max_batch_size)
        key = (bucket, probabilities)
        if key not in self._compiled:
            with self._lock:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(bucket, probabilities)
        return bucket, self._compiled[key]

    def _compile(self, bucket: int, probabilities: bool) -> Any:
        def predict(weights: Weights, inputs: Any) -> Any:
            params = self._precision.cast_params(weights.params)
            inputs = self._precision.cast_inputs(inputs)
            outputs = self._model.predict(params, weights.model_state, inputs)
            outputs = self._model.probabilities(outputs) if probabilities else outputs
            return self._precision.cast_outputs(outputs)

        inputs = jax.ShapeDtypeStruct((bucket, *self._inputs.shape[1:]), self._inputs.dtype)
        jit = jit_for(jax.default_backend())
        return jit(predict).lower(self._abstract, inputs).compile()

    def _run_piece(self, weights: Weights, piece: np.ndarray, probabilities: bool) -> Any:
        size = len(piece)
        bucket, executable = self.compile(size, probabilities)
        if size < bucket:
            # A real row, not zeros, for the same reason as in training; any row if there is none.
            filler = piece[-1:] if size else np.zeros((1, *piece.shape[1:]), piece.dtype)
            piece = np.concatenate([piece, np.repeat(filler, bucket - size, axis=0)])
        outputs = jax.device_get(executable(weights, piece))
        return jax.tree.map(lambda a: a[:size], outputs)

    def _check(self, inputs: Any) -> tuple[np.ndarray, int]:
        spec = self._inputs
        try:
            array = np.asarray(inputs)
        except ValueError as error:
            raise AetheriaError(f"predict: expected an array, got {error}") from error
        if array.ndim == 0 or array.shape[1:] != spec.shape[1:]:
            dims = ", ".join(str(dim) for dim in ("batch", *spec.shape[1:]))
            raise AetheriaError(
                f"predict: expected inputs [{dims}], got {list(array.shape)}; "
                "give a batch of examples shaped as in training"
            )
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise AetheriaError(
                f"predict: expected inputs of {spec.dtype}, got {array.dtype}; convert them"
            )
        return array.astype(spec.dtype, copy=False), len(array)
