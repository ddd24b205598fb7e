"""Writes a snapshot in a format: its weights under PyTorch's names or JAX's, or its prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aetheria.build import require_torch
from aetheria.build.weights import link_weights
from aetheria.build.weights.about import describe
from aetheria.build.weights.leaf_files import write_leaf_file
from aetheria.engine.interfaces import Snapshot
from aetheria.engine.typed_json import to_json
from aetheria.hardware.layout.leaves import Weights, evaluated_leaves
from aetheria.model.precision import FLOAT32, Precision
from aetheria.tools.weights.new_path import new_path


def export_snapshot(
    snapshot: Snapshot,
    to: Path,
    project: Path | None,
    model_name: str | None = None,
    *,
    format: str,
    platforms: Sequence[str] = ("cpu",),
    batch_size: int | None = None,
) -> Mapping[str, Any]:
    """Writes a snapshot, with its averaged weights if it has any.

    Args:
        snapshot: with its record.
        to: the file or folder to write.
        project: the project folder.
        model_name: the model; None: the name in the snapshot.
        format: `pytorch`, `safetensors`, `stablehlo` or `onnx`.
        platforms: of `stablehlo`: where the program runs.
        batch_size: of `stablehlo` and `onnx`: the number of rows that it takes; None: any.

    Returns:
        Name -> array of the weights, as written.

    Raises:
        AetheriaError: a package is missing, the model has no such form, or `to` cannot be written.
    """
    if format == "pytorch":
        return _export_weights(snapshot, to, project, model_name)
    if format == "safetensors":
        return _export_leaves(snapshot, to, project, model_name)
    if format == "onnx":
        from aetheria.tools.weights.onnx_file import export_onnx

        return export_onnx(snapshot, to, project, model_name, batch_size=batch_size)
    from aetheria.tools.weights.stablehlo import export_stablehlo

    return export_stablehlo(
        snapshot, to, project, model_name, platforms=platforms, batch_size=batch_size
    )


def _export_weights(
    snapshot: Snapshot, to: Path, project: Path | None, model_name: str | None
) -> Mapping[str, Any]:
    """Under PyTorch's names."""
    require_torch("export")
    from aetheria.hardware.torch.weight_files import write_weight_file

    run = snapshot.record.run
    named, _ = describe(snapshot, project, model_name)
    arrays = {p: _at_least_float32(a) for p, a in evaluated_leaves(snapshot.arrays).items()}
    precision, spec = Precision.parse(run.mixed_precision), run.example_spec
    wide = precision if precision.params == np.float64 else FLOAT32
    link = link_weights(named.model, spec, wide, str(snapshot.path), len(arrays))
    tensors = link.to_tensors(arrays)
    resolved = {} if run.resolved is None else to_json(run.resolved)
    about = {
        "model_name": named.name,
        "model_params": named.params,
        "example_spec": spec,
        "resolved": resolved,
    }
    with new_path(to) as path:
        write_weight_file(path, tensors, about)
    return tensors


def _export_leaves(
    snapshot: Snapshot, to: Path, project: Path | None, model_name: str | None
) -> Mapping[str, Any]:
    """Under their leaf names."""
    about = describe(snapshot, project, model_name).about
    leaves = evaluated_leaves(snapshot.arrays)
    arrays = {p: a for p, a in leaves.items() if p.split("/")[0] in Weights._fields}
    with new_path(to) as path:
        write_leaf_file(path, arrays, about)
    return arrays


def _at_least_float32(array: np.ndarray) -> np.ndarray:
    """Widens bfloat16 and float16 to float32, which represents their values exactly."""
    array = np.asarray(array)
    narrow = array.dtype.itemsize < 4 and jax.numpy.issubdtype(array.dtype, np.floating)
    return array.astype(np.float32) if narrow else array
