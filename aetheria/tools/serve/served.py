"""A model that is served: its predictor, what a client may ask of it, and its replacement by newer
weights. Knows no HTTP.
"""

import copy
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aetheria.errors import AetheriaError, shown
from aetheria.hardware.jax.joining import Joinable, Joiner
from aetheria.inference import Predictor
from aetheria.tools.serve.inputs import TensorSpec, input_specs
from aetheria.tools.serve.tensors import datatype_of

CLASSES, OUTPUTS, PROBABILITIES = "classes", "outputs", "probabilities"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """How models are served.

    Attributes:
        project: the folder with the user's models; None: the current folder.
        min_batch_size: fewer rows are padded to so many, a power of two.
        max_joined_rows: calls are joined up to so many rows, a power of two.
        max_delay_seconds: how long a call waits for others; 0: calls are not joined.
        num_threads: how many computations of a model run at once.
    """

    project: Path | None = None
    min_batch_size: int = 1
    max_joined_rows: int = 32
    max_delay_seconds: float = 0.002
    num_threads: int = 2


class Version:
    """The weights that answer from one reload to the next, and all that belongs to them.

    Attributes:
        predictor: computes the answers.
        name: the step of the snapshot, as a text.
        inputs: what a client gives.
        outputs: what it may ask for.
        raw: the names of the outputs that the model itself has.
        picture_shape: [height, width, channel] of a model of pictures; None: another.
        joinable: says which calls may be computed together.
    """

    def __init__(self, predictor: Predictor, options: ServingOptions):
        self.predictor = predictor
        self.name = "1" if predictor.step is None else str(predictor.step)
        self.inputs = input_specs(predictor)
        self.picture_shape = getattr(predictor.encoding, "shape", None)
        self.joinable = Joinable(predictor, options.max_joined_rows)
        # A copy computes it: a predictor compares its first inputs with those of training.
        tried = copy.copy(predictor)
        none = jax.tree.map(
            lambda column: np.zeros((0, *column.shape[1:]), column.dtype), predictor.input_spec
        )
        outputs = named_outputs(tried.predict(none), OUTPUTS)
        self.raw = [*outputs]
        probabilities = {}
        if predictor.has_probabilities:
            probabilities = named_outputs(tried.predict_proba(none), PROBABILITIES)
        self.has_class_names = bool(predictor.classes) and self.raw == [OUTPUTS]
        arrays = {**outputs, **{n: a for n, a in probabilities.items() if n not in outputs}}
        self.outputs = [
            TensorSpec(name, datatype_of(array), (-1, *array.shape[1:]))
            for name, array in arrays.items()
        ]
        if self.has_class_names:
            shape = (-1, *outputs[OUTPUTS].shape[1:-1])
            self.outputs.append(TensorSpec(CLASSES, "BYTES", shape))

    def class_names(self, outputs: np.ndarray) -> np.ndarray:
        """The name of the most probable class of each example, as objects."""
        classes = self.predictor.classes
        return np.array(classes, object)[outputs[..., : len(classes)].argmax(-1)]


class ServedModel:
    """A model by its name; a reload replaces its version in one assignment, so that every answer is
    wholly of the old weights or of the new.

    Args:
        name: in addresses.
        reference: a run folder, `RUN@best`, a snapshot or a file of weights.
        options: how it is served.
        on_batch: is called with the numbers of calls and rows of each computation.

    Raises:
        AetheriaError: there is no such model.
    """

    def __init__(
        self,
        name: str,
        reference: str,
        options: ServingOptions,
        on_batch: Callable[[int, int], None] = lambda num_calls, num_rows: None,
    ):
        self.name, self._reference, self._options = name, reference, options
        self._reloading = threading.Lock()
        self._stamp, path = _find(reference)
        predictor = Predictor(
            checkpoint_path=path,
            project=options.project,
            min_batch_size=options.min_batch_size,
            max_batch_size=max(1024, options.min_batch_size),
            copy=False,
        )
        self.version = Version(predictor, options)
        self._joiner = Joiner(
            max_rows=options.max_joined_rows,
            max_delay_seconds=options.max_delay_seconds,
            num_threads=options.num_threads,
            on_batch=on_batch,
        )

    def submit(self, version: Version, inputs: Any, *, probabilities: bool) -> Future[Any]:
        """Queues arrays of `read_inputs`; the future gets outputs of as many rows."""
        return self._joiner.submit(version.joinable, inputs, probabilities=probabilities)

    def reload(self) -> bool:
        """Loads what the reference stands for now; returns whether that is something new. Nothing
        changes while it is loaded and compiled, nor if that fails.

        Raises:
            AetheriaError: it cannot be loaded.
        """
        with self._reloading:
            stamp, path = _find(self._reference)
            if stamp == self._stamp:
                return False
            predictor = copy.copy(self.version.predictor)
            predictor.reload(path)
            self.version, self._stamp = Version(predictor, self._options), stamp
            return True

    def close(self) -> None:
        """Answers what is queued, and ends."""
        self._joiner.close()


def split_reference(text: str) -> tuple[str, str]:
    """Splits `NAME=RUN`; where no name is given, it is that of the run, or of the file.

    >>> split_reference("runs/mlp/3@best")
    ('mlp', 'runs/mlp/3@best')
    >>> split_reference("digits=runs/mlp/3")
    ('digits', 'runs/mlp/3')

    Raises:
        AetheriaError: the name is not one for an address.
    """
    name, equals, reference = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        name, reference = _name_of(text), text
    if not _NAME.fullmatch(name):
        raise AetheriaError(
            f"serve: expected a name of letters, digits, '.', '_' and '-', got {shown(name)}; give "
            f"one: NAME={reference}"
        )
    return name, reference


def named_outputs(outputs: Any, alone: str) -> dict[str, np.ndarray]:
    """Output name -> array; `alone` is the name of outputs that are one array."""
    if not isinstance(outputs, Mapping | list | tuple):
        return {alone: outputs}
    leaves, _ = jax.tree_util.tree_flatten_with_path(outputs)
    prefix = "" if alone == OUTPUTS else f"{alone}/"
    return {
        prefix + "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): leaf
        for path, leaf in leaves
    }


def _name_of(reference: str) -> str:
    path = Path(reference.rpartition("@")[0] or reference)
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        return path.stem
    parts = [part for part in path.absolute().parts if part != "checkpoints"]
    if parts[-1].startswith("snapshot_"):
        parts.pop()
    return parts[-2] if parts[-1].isdigit() and len(parts) > 2 else parts[-1]


def _find(reference: str) -> tuple[tuple[str, int, int], str]:
    """What says whether there is something new, and the path to load."""
    path = Predictor.find(reference)
    status = path.stat()
    return (str(path), status.st_ino, status.st_mtime_ns), str(path)
