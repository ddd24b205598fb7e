"""A model's prediction as a program of StableHLO that runs without the model's code.

Knows neither files nor what a snapshot says.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax import export

from aetheria.errors import AetheriaError, summary_of
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.prediction import PredictProgram
from aetheria.hardware.layout.leaves import export_leaves, import_leaves, leaf_paths
from aetheria.hardware.layout.trees import Tree

Made = TypeVar("Made")

_ANY_ROWS = 2  # a batch size to try, to tell what a symbolic one does not allow from other mistakes


def export_predict(
    program: PredictProgram,
    *,
    probabilities: bool = False,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu",),
) -> export.Exported:
    """Lowers a prediction program to a function of weights and inputs.

    Args:
        program: the program.
        probabilities: whether the function returns class probabilities.
        batch_size: the number of rows; None: any.
        platforms: as `jax.export` names them, such as `cuda`; they need not be here.

    Returns:
        The function: leaf path -> array (a PRNG key as uint32 data), and inputs [batch, ...] as
        `PredictProgram.run` takes them, to outputs [batch, ...].

    Raises:
        AetheriaError: the model's `predict` needs to know the number of rows.
    """
    paths = leaf_paths(program.abstract)
    jit = jit_for("cpu" if "cpu" in platforms else platforms[0])

    def lower(num_rows: Any) -> export.Exported:
        predict = program.make_function(num_rows, probabilities)

        def run(leaves: dict[str, jax.Array], inputs: Tree) -> Tree:
            weights = import_leaves([leaves[path] for path in paths], program.abstract)
            return predict(weights, inputs)

        leaves = jax.eval_shape(export_leaves, program.abstract)
        return export.export(jit(run), platforms=platforms)(leaves, program.rows(num_rows))

    return with_rows(lower, batch_size)


def with_rows(lower: Callable[[Any], Made], batch_size: int | None) -> Made:
    """Calls `lower` with a number of rows, a symbolic one if it is None.

    Raises:
        AetheriaError: it takes only a number.
    """
    if batch_size is not None:
        return lower(batch_size)
    try:
        return lower(*export.symbolic_shape("batch"))
    except Exception as error:  # of any type: whatever the model does with a number
        lower(_ANY_ROWS)  # raises what is wrong with any batch size
        raise AetheriaError(
            "export: expected a model whose predict takes a batch of any size, got "
            f"{summary_of(error)}; give --batch-size N"
        ) from error
