"""What a snapshot computes, as a function that a format writes: its parts, checked once."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from aetheria.build import build_predict_program
from aetheria.build.weights.about import About, describe
from aetheria.data.encoding import read_encoding
from aetheria.engine.interfaces import Snapshot
from aetheria.hardware.jax.prediction import PredictProgram
from aetheria.hardware.layout.leaves import Weights, export_leaves
from aetheria.plugins.bounded import build_described

MAX_BATCH_SIZE = 1024


class SnapshotProgram(NamedTuple):
    """A snapshot's prediction.

    Attributes:
        about: what an export says of its model.
        program: the prediction program.
        weights: its weights, placed; averaged ones, if the snapshot has any.
        functions: name -> whether it returns class probabilities: `predict`, and `predict_proba`
            of a model with classes.
        classes: the name of each class number; empty: not known.
    """

    about: About
    program: PredictProgram
    weights: Weights
    functions: Mapping[str, bool]
    classes: tuple[str, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights on the host: leaf path -> array."""
        leaves = jax.device_get(export_leaves(self.weights))
        return {path: np.asarray(leaf) for path, leaf in leaves.items()}


def build_snapshot_program(
    snapshot: Snapshot, project: Path | None, model_name: str | None
) -> SnapshotProgram:
    """Makes the prediction program of a snapshot; the arguments are those of `describe`.

    Raises:
        AetheriaError: there is no such model, or the weights are not its.
    """
    named, about = describe(snapshot, project, model_name)
    build = lambda: build_predict_program(
        named.model,
        about.example_spec,
        trained_with=about.mixed_precision,
        mixed_precision=None,
        max_batch_size=MAX_BATCH_SIZE,
    )
    program = build_described(build, str(snapshot.path), len(snapshot.arrays))
    functions = {"predict": False}
    if program.has_probabilities:
        functions["predict_proba"] = True
    classes = ()
    if about.encoding is not None:
        classes = read_encoding(about.encoding, str(snapshot.path)).classes
    return SnapshotProgram(about, program, program.place(snapshot.arrays), functions, classes)
