"""The prediction program: one model's `predict`, compiled for a few batch sizes, for any thread.

Knows neither a snapshot's files nor training.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
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

if TYPE_CHECKING:  # most models generate nothing
    from aetheria.hardware.jax.generation import Generator


class PredictProgram:
    """Pads every batch to a power of two, so that few shapes are compiled, each once.

    Args:
        model: the model.
        example_spec: column name -> {"shape", "dtype"} of one example, as a snapshot records it.
        mixed_precision: whether to compute in bfloat16; or a precision policy.
        trained_with: the `mixed_precision` of the snapshot, which says in which dtype its
            parameters are kept.
        max_batch_size: larger batches are cut into pieces of this size, a power of two.
        min_batch_size: smaller batches are padded to this size, a power of two.
        data_parallel: whether every piece is split over all devices of this process, or over the
            largest power of two of them, each of which holds the weights; else one device computes.
        copy: whether an answer is an array of its own; else it is what JAX lends, read-only.

    Attributes:
        model: the model.
        abstract: shapes and dtypes of the weights.
    """

    def __init__(
        self,
        model: Model,
        example_spec: Mapping[str, object],
        *,
        mixed_precision: bool | str,
        trained_with: bool | str = False,
        max_batch_size: int = 1024,
        min_batch_size: int = 1,
        data_parallel: bool = False,
        copy: bool = True,
    ):
        _check_power("max_batch_size", max_batch_size, 1024)
        _check_power("min_batch_size", min_batch_size, 1)
        if min_batch_size > max_batch_size:
            raise AetheriaError(
                f"min_batch_size: expected at most max_batch_size ({max_batch_size}), got "
                f"{min_batch_size}; lower it"
            )
        devices = jax.local_devices()
        count = 1 << (len(devices).bit_length() - 1) if data_parallel else 1
        # Calls with shardings take longer, so that one device has none.
        self._mesh = Mesh(np.array(devices[:count]), ("data",)) if data_parallel else None
        self.model = model
        self._precision = Precision.parse(mixed_precision)
        self._as_answer = np.array if copy else np.asarray
        self._max_batch_size = max(max_batch_size, count)
        self._min_batch_size = max(min_batch_size, count)
        # Of arrays just as in training, in number the size of a batch: a call needs no more.
        self._seen: dict[tuple[tuple[int, ...], np.dtype[Any], bool], Any] = {}
        self._compiled: dict[tuple[int, bool], Any] = {}
        self._generators: dict[bool, Generator] = {}
        self._lock = threading.Lock()
        batch = example_shapes(example_spec, "checkpoint_path")
        nested = nested_columns(batch)
        if "inputs" not in nested:
            raise AetheriaError(
                f"predict: expected a model trained on a column 'inputs', got {', '.join(batch)}; "
                "name what the network sees so in its dataset, a mapping if it is several columns"
            )
        self.inputs: Tree = nested["inputs"]  # the shape and dtype of a batch of one example
        self.abstract = abstract_weights(model, Precision.parse(trained_with), batch)

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes that are compiled: powers of two up to the largest."""
        sizes = range(self._min_batch_size.bit_length() - 1, self._max_batch_size.bit_length())
        return [1 << exponent for exponent in sizes]

    @property
    def num_compilations(self) -> int:
        """How many programs were compiled so far, one for each batch size and kind of answer."""
        return len(self._compiled)

    @property
    def has_probabilities(self) -> bool:
        """Whether the model makes probabilities of its outputs."""
        outputs = jax.eval_shape(self._predict, self.abstract, self.inputs)
        try:
            jax.eval_shape(self.model.probabilities, outputs)
        except AetheriaError:
            return False
        return True

    def place(self, arrays: Leaves, *, averaged: bool = True) -> Weights:
        """Puts the weights of an exported state on the devices; averaged ones, if any and wanted.

        Raises:
            SnapshotError: they are another model's; the leaf is named.
        """
        chosen = evaluated_leaves(arrays) if averaged else arrays
        weights = place_weights(chosen, self.abstract, "checkpoint_path")
        if self._mesh is None:
            return weights
        return jax.device_put(weights, NamedSharding(self._mesh, PartitionSpec()))

    def run(self, weights: Weights, inputs: Tree, *, probabilities: bool = False) -> Tree:
        """Predicts for `inputs` [batch, ...], or a mapping of them if the model was trained on one;
        returns NumPy outputs [batch, ...]. For one example, without the batch dim, the outputs have
        none either.

        Raises:
            AetheriaError: the inputs are not shaped like the ones the model was trained on.
        """
        if type(inputs) is np.ndarray:
            seen = self._seen.get((inputs.shape, inputs.dtype, probabilities))
            if seen is not None:
                return self._as_answer(seen(weights, inputs))
        if not self._is_ready(inputs):
            inputs, is_single = self.check(inputs)
            if is_single:
                return jax.tree.map(lambda a: a[0], self._run(weights, inputs, probabilities))
        return self._run(weights, inputs, probabilities)

    def _run(self, weights: Weights, inputs: Tree, probabilities: bool) -> Tree:
        size, step = num_rows(inputs), self._max_batch_size
        if size <= step:
            piece = self._run_piece(weights, inputs, size, probabilities)
            # By default a copy: what JAX lends is read-only, of which PyTorch warns.
            return _map(self._as_answer, piece)
        pieces = []
        for start in range(0, size, step):
            rows = _rows(inputs, slice(start, start + step))
            pieces.append(self._run_piece(weights, rows, min(step, size - start), probabilities))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def compile(self, batch_size: int, probabilities: bool = False) -> tuple[int, Any]:
        """Returns the bucket of a batch size and its executable, compiled at the first call."""
        bucket = min(power_of_two(batch_size), self._max_batch_size)
        bucket = max(bucket, self._min_batch_size)
        key = (bucket, probabilities)
        if key not in self._compiled:
            with self._lock:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(bucket, probabilities)
        return bucket, self._compiled[key]

    def generator(self, cache: bool) -> "Generator":
        """Returns what generates text with the model, with its key-value cache if it has one.

        Raises:
            AetheriaError: the model is no language model.
        """
        from aetheria.hardware.jax.generation import DecodeProgram, Generator

        with self._lock:
            if cache not in self._generators:
                program = DecodeProgram(
                    self.model, self._precision, self.inputs, self.abstract, cached=cache
                )
                self._generators[cache] = Generator(program)
            return self._generators[cache]

    def _compile(self, bucket: int, probabilities: bool) -> Any:
        predict = self.make_function(bucket, probabilities)
        jit = jit_for(jax.default_backend())
        shardings: dict[str, Any] = {}
        if self._mesh is not None:
            rows = NamedSharding(self._mesh, PartitionSpec("data"))
            whole = NamedSharding(self._mesh, PartitionSpec())
            shardings = {"in_shardings": (whole, rows), "out_shardings": rows}
        with named_frames():
            return jit(predict, **shardings).lower(self.abstract, self.rows(bucket)).compile()

    def make_function(self, num_rows: int, probabilities: bool) -> Callable[[Weights, Tree], Tree]:
        """Makes the function that is compiled for a number of rows, which may be symbolic."""

        def predict(weights: Weights, inputs: Tree) -> Tree:
            outputs = self._predict(weights, inputs)
            check_rows(self.model, "predict", outputs, num_rows)
            outputs = self.model.probabilities(outputs) if probabilities else outputs
            return self._precision.cast_outputs(outputs)

        return predict

    def rows(self, num_rows: int) -> Tree:
        """Shapes and dtypes of `num_rows` inputs."""
        return jax.tree.map(
            lambda spec: jax.ShapeDtypeStruct((num_rows, *spec.shape[1:]), spec.dtype), self.inputs
        )

    def _predict(self, weights: Weights, inputs: Tree) -> Tree:
        params = self._precision.cast_params(weights.params)
        inputs = self._precision.cast_inputs(inputs)
        return call_hook(self.model, "predict", params, weights.model_state, inputs)

    def _run_piece(self, weights: Weights, piece: Tree, size: int, probabilities: bool) -> Tree:
        bucket, executable = self.compile(size, probabilities)
        if size < bucket:
            piece = _map(lambda column: _pad(column, bucket), piece)
        outputs = executable(weights, piece)
        if size == bucket and isinstance(outputs, jax.Array) and self._is_ready(piece):
            self._seen[piece.shape, piece.dtype, probabilities] = executable
        return _map(lambda a: np.asarray(a)[:size], outputs)

    def _is_ready(self, inputs: Tree) -> bool:
        """Whether inputs are a batch just as in training, so that nothing is to be checked."""
        like = self.inputs
        return (
            type(inputs) is np.ndarray
            and not isinstance(like, Mapping)
            and inputs.dtype == like.dtype
            and inputs.shape[1:] == like.shape[1:]
            and inputs.ndim == len(like.shape)
        )

    def check(self, inputs: Tree) -> tuple[Tree, bool]:
        """Returns the inputs as arrays like those of training, and whether they are one example, to
        which the batch dim was added.

        Raises:
            AetheriaError: they are not shaped like those of training, or their columns differ in
                length.
        """
        arrays = _as_arrays(self.inputs, inputs, "inputs")
        likes = jax.tree.leaves(self.inputs)
        is_single = all(
            array.shape == like.shape[1:]
            for array, like in zip(jax.tree.leaves(arrays), likes, strict=True)
        )
        if is_single:
            arrays = jax.tree.map(lambda array: array[None], arrays)
        checked = _check_columns(self.inputs, arrays, "inputs")
        sizes = {len(column) for column in jax.tree.leaves(checked)}
        if len(sizes) != 1:
            raise AetheriaError(
                f"predict: expected inputs of as many rows in every column, got {sorted(sizes)}; "
                "give every example every column"
            )
        return checked, is_single


def _check_power(name: str, size: int, usual: int) -> None:
    if size < 1 or size & (size - 1):
        raise AetheriaError(f"{name}: expected a power of two, got {size}; use {usual}")


def power_of_two(size: int) -> int:
    """The smallest power of two that is no less.

    >>> power_of_two(0), power_of_two(5), power_of_two(8)
    (1, 8, 8)
    """
    return 1 << max(size - 1, 0).bit_length()


def num_rows(inputs: Tree) -> int:
    """How many rows arrays with a batch dim have."""
    return len(inputs if isinstance(inputs, np.ndarray) else jax.tree.leaves(inputs)[0])


def _map(function: Callable[[Any], np.ndarray], tree: Tree) -> Tree:
    """`jax.tree.map`, which takes as long as a small model for a tree of one array."""
    if isinstance(tree, np.ndarray | jax.Array):
        return function(tree)
    return jax.tree.map(function, tree)


def _as_arrays(spec: Tree, inputs: Tree, name: str) -> Tree:
    """Makes arrays of inputs, or of a mapping of them where the model was trained on one."""
    if not isinstance(spec, Mapping):
        return _as_array(inputs)
    if not isinstance(inputs, Mapping) or set(inputs) != set(spec):
        got = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise AetheriaError(
            f"predict: expected {name} as a mapping of {', '.join(spec)}, got {got}; "
            "give the columns of training"
        )
    return {key: _as_arrays(part, inputs[key], f"{name}/{key}") for key, part in spec.items()}


def _as_array(inputs: ArrayLike) -> np.ndarray:
    # A tensor of PyTorch that takes part in a gradient, or lies on a device.
    detach = getattr(inputs, "detach", None)
    try:
        return np.asarray(inputs if detach is None else detach().cpu())
    except (TypeError, ValueError) as error:
        raise AetheriaError(
            f"predict: expected an array, got {error}; give numbers, as many in every example"
        ) from error


def _check_columns(spec: Tree, arrays: Tree, name: str) -> Tree:
    if isinstance(spec, Mapping):
        return {key: _check_columns(spec[key], arrays[key], f"{name}/{key}") for key in spec}
    return _column_like(spec, arrays, name)


def _column_like(spec: jax.ShapeDtypeStruct, array: np.ndarray, name: str) -> np.ndarray:
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
