"""A snapshot's prediction as an `.onnx` file, compared with the prediction that it stands for."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core

from aetheria.engine.interfaces import Snapshot
from aetheria.engine.typed_json import to_json
from aetheria.errors import AetheriaError, summary_of
from aetheria.hardware.jax.portable import with_rows
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.layout.trees import Tree
from aetheria.plugins.packages import require_package
from aetheria.tools.weights.new_path import new_path
from aetheria.tools.weights.programs import SnapshotProgram, build_snapshot_program

# The largest difference from `Predictor`, relative to the largest output. SimpleMLP, SimpleCNN and
# Transformer differed by 4e-7 at most (jax2onnx 0.13.0, onnxruntime 1.32).
TOLERANCE = 1e-5
_NUM_ROWS = 3  # compared
_OUTPUTS = {"predict": "outputs", "predict_proba": "probabilities"}


def export_onnx(
    snapshot: Snapshot,
    to: Path,
    project: Path | None,
    model_name: str | None = None,
    *,
    batch_size: int | None = None,
) -> Mapping[str, np.ndarray]:
    """Writes a snapshot's prediction, weights included, as a new file. Its outputs are `outputs`,
    and `probabilities` of a model with classes.

    Args:
        snapshot: with its record.
        to: the file.
        project: the project folder.
        model_name: the model; None: the name in the snapshot.
        batch_size: the number of rows that it takes; None: any.

    Returns:
        Leaf path -> array of the weights.

    Raises:
        AetheriaError: a package is missing, an operation has no form in ONNX, the outputs of
            onnxruntime are other ones, or `to` cannot be written.
    """
    for package in ("jax2onnx", "onnx", "onnxruntime"):
        require_package("export", package, "onnx")
    made = build_snapshot_program(snapshot, project, model_name)
    content = _convert(made, batch_size)
    _compare(made, content, batch_size or _NUM_ROWS)
    with new_path(to) as path:
        path.write_bytes(content)
    return made.arrays()


def _convert(made: SnapshotProgram, batch_size: int | None) -> bytes:
    weights = jax.tree.map(np.asarray, made.weights)

    def trace(num_rows: Any) -> tuple[Any, Tree, Tree]:
        inputs = made.program.rows(num_rows)

        def run(inputs: Tree) -> Tree:
            return {
                _OUTPUTS[name]: made.program.make_function(num_rows, proba)(weights, inputs)
                for name, proba in made.functions.items()
            }

        # Traced here: jax2onnx replaces functions of JAX and Flax while it traces.
        jaxpr, outputs = jax.make_jaxpr(run, return_shape=True)(inputs)
        return jaxpr, inputs, outputs

    jaxpr, inputs, outputs = with_rows(trace, batch_size)
    named = named_leaves({"inputs": inputs})
    from jax2onnx import to_onnx

    try:
        with _quiet():
            proto: Any = to_onnx(
                lambda *columns: core.jaxpr_as_fun(jaxpr)(*columns),
                inputs=[*named.values()],
                input_names=[*named],
                output_names=[*named_leaves(outputs)],
                model_name=made.about.model_name,
            )
            for key, said in {"aetheria": to_json(made.about), "classes": made.classes}.items():
                proto.metadata_props.add(key=key, value=json.dumps(said))
            return proto.SerializeToString()
    except Exception as error:  # of any type: whatever a conversion of jax2onnx fails with
        raise AetheriaError(
            f"export: expected operations that jax2onnx converts, got {summary_of(error)}; use "
            "--format stablehlo"
        ) from error


def _compare(made: SnapshotProgram, content: bytes, num_rows: int) -> None:
    """Raises AetheriaError if onnxruntime computes other outputs from a few random rows."""
    import onnxruntime

    inputs = _random_inputs(made, num_rows)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(content, options)
        names = [output.name for output in session.get_outputs()]
        got: dict[str, Any] = dict(
            zip(names, session.run(None, named_leaves({"inputs": inputs})), strict=True)
        )
    except Exception as error:  # of any type: onnxruntime has many of its own
        raise AetheriaError(
            f"export: expected a model that onnxruntime runs, got {summary_of(error)}; use "
            "--format stablehlo"
        ) from error
    for function, proba in made.functions.items():
        outputs = made.program.run(made.weights, inputs, probabilities=proba)
        for name, want in named_leaves({_OUTPUTS[function]: outputs}).items():
            scale = max(1.0, float(np.abs(want).max(initial=0.0)))
            difference = float(np.abs(got[name] - want).max(initial=0.0)) / scale
            if not difference <= TOLERANCE:
                raise AetheriaError(
                    f"export: expected {name} of onnxruntime within {TOLERANCE:g} of the "
                    f"Predictor's, got a difference of {difference:.2g}; use --format stablehlo"
                )


def _random_inputs(made: SnapshotProgram, num_rows: int) -> Tree:
    """Floats in the range of training, if it is known; whole numbers 0 and 1, as any vocabulary
    has them.
    """
    rng, ranges = np.random.default_rng(0), made.about.input_ranges or {}

    def column(path: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
        if like.dtype.kind in "iub":
            return rng.integers(0, 2, like.shape).astype(like.dtype)
        low, high = ranges.get(path, (0.0, 1.0))
        return rng.uniform(low, high, like.shape).astype(like.dtype)

    spec = {"inputs": made.program.rows(num_rows)}
    leaves = [column(path, like) for path, like in named_leaves(spec).items()]
    return jax.tree.unflatten(jax.tree.structure(spec), leaves)["inputs"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what jax2onnx prints and logs: each layer, and extensions that it has no use for."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
