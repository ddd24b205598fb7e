"""A run folder of a model whose weights are those of its `init`, made without training."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.build.weights.about import About
from aetheria.build.weights.leaf_files import write_leaf_file
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.tools.weights.import_command import ImportCommand


def spec(dtype: str, *shape: int) -> dict[str, Any]:
    """Inputs of an example."""
    return {"inputs": {"shape": [*shape], "dtype": dtype}}


def make_run(
    folder: Path,
    name: str,
    kind: Any,
    params: dict[str, Any],
    example_spec: dict[str, Any],
    precision: bool | str = False,
) -> Path:
    """A run folder with a snapshot of step 0, without training."""
    model = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in params.items()})
    column = example_spec["inputs"]
    batch = {"inputs": np.zeros((1, *column["shape"]), column["dtype"])}
    weights, state = jax.jit(model.init)(jax.random.key(0), batch)
    arrays = named_leaves({"params": weights, "model_state": state})
    dtype = jnp.bfloat16 if precision else np.float32
    about = About(
        model_name=kind.__name__,
        model_params=params,
        example_spec=example_spec,
        mixed_precision=precision,
        step=0,
        params_sha256="",
    )
    file = folder / f"{name}.safetensors"
    write_leaf_file(file, {n: np.asarray(a, dtype) for n, a in arrays.items()}, about)
    sets = (f"mixed_precision={precision}",) if precision else ()
    assert ImportCommand(file=file, workdir=folder / name, overrides=sets).execute() == 0
    return folder / name
