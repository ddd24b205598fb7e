"""A snapshot's prediction as a folder that runs with JAX and NumPy alone.

`predict.stablehlo` is the program, `weights.npz` its weights, `manifest.json` describes both, and
`predict.py` runs them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.export import Exported

from aetheria.build.provenance import versions
from aetheria.engine.interfaces import Snapshot
from aetheria.engine.typed_json import to_json
from aetheria.hardware.jax.compiler import compiler_options_for
from aetheria.hardware.jax.portable import export_predict
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.layout.trees import Tree
from aetheria.plugins.packages import require_package
from aetheria.tools.weights.new_path import new_path
from aetheria.tools.weights.predict_script import SCRIPT
from aetheria.tools.weights.programs import MAX_BATCH_SIZE, build_snapshot_program

WEIGHTS, MANIFEST, PREDICT = "weights.npz", "manifest.json", "predict.py"


def export_stablehlo(
    snapshot: Snapshot,
    to: Path,
    project: Path | None,
    model_name: str | None = None,
    *,
    platforms: Sequence[str] = ("cpu",),
    batch_size: int | None = None,
) -> Mapping[str, np.ndarray]:
    """Writes a snapshot's prediction as a new folder.

    Args:
        snapshot: with its record.
        to: the folder.
        project: the project folder.
        model_name: the model; None: the name in the snapshot.
        platforms: where the program runs.
        batch_size: the number of rows that it takes; None: any.

    Returns:
        Leaf path -> array, as written.

    Raises:
        AetheriaError: the model's `predict` allows no batch of any size, or `to` cannot be written.
    """
    require_package("export", "flatbuffers", "export")  # of JAX, to write a program
    made = build_snapshot_program(snapshot, project, model_name)
    exported = {
        name: export_predict(
            made.program, probabilities=proba, batch_size=batch_size, platforms=platforms
        )
        for name, proba in made.functions.items()
    }
    arrays = made.arrays()
    first = exported["predict"]
    with new_path(to) as folder:
        folder.mkdir()
        for name, function in exported.items():
            (folder / f"{name}.stablehlo").write_bytes(function.serialize())
        np.savez(folder / WEIGHTS, **{n: _plain(a) for n, a in arrays.items()})  # pyright: ignore[reportArgumentType]
        (folder / PREDICT).write_text(SCRIPT)
        manifest = {
            "format": "aetheria-stablehlo",
            **to_object(made.about),
            "classes": [*made.classes],
            "snapshot": snapshot.path.name,
            "inputs": _columns(program_inputs(first), "inputs"),
            "functions": {n: {"outputs": _outputs(e)} for n, e in exported.items()},
            "weights": {n: {"shape": [*a.shape], "dtype": str(a.dtype)} for n, a in arrays.items()},
            "batch_size": batch_size,
            "max_batch_size": MAX_BATCH_SIZE,
            "platforms": [*platforms],
            "compiler_options": {
                backend: dict(options)
                for backend in map(_backend, platforms)
                if (options := compiler_options_for(backend))
            },
            "calling_convention_version": first.calling_convention_version,
            "versions": versions(),
            "files": {f.name: _digest(f) for f in sorted(folder.iterdir())},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return arrays


def _backend(platform: str) -> str:
    """JAX's name of the backend that runs a platform of `jax.export`."""
    return "gpu" if platform in ("cuda", "rocm") else platform


def to_object(value: object) -> dict[str, Any]:
    """A dataclass as a JSON object."""
    made = to_json(value)
    assert isinstance(made, dict)
    return made


def program_inputs(exported: Exported) -> Tree:
    """Shapes and dtypes of the second argument of an exported program."""
    arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return arguments[1]


def _outputs(exported: Exported) -> dict[str, Any]:
    return _columns(jax.tree.unflatten(exported.out_tree, exported.out_avals), "outputs")


def _columns(tree: Tree, name: str) -> dict[str, Any]:
    """Path of every column -> shape, in which a size that is open is its name, and dtype."""
    return {
        "/".join(filter(None, (name, path))): {
            "shape": [dim if isinstance(dim, int) else str(dim) for dim in leaf.shape],
            "dtype": str(leaf.dtype),
        }
        for path, leaf in named_leaves(tree).items()
    }


def _plain(array: np.ndarray) -> np.ndarray:
    """The bits of a number that NumPy's files cannot name, as whole numbers; others as they are."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
