"""Converts weight files of PyTorch to snapshots, and snapshots to weight files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aetheria.build import build_feed, build_model, require_torch
from aetheria.build.provenance import describe_run, recorded_model, resolve_model
from aetheria.config import Config
from aetheria.engine.interfaces import Snapshot
from aetheria.engine.record import ImportedFrom, ResolvedArguments, SnapshotRecord
from aetheria.engine.run_state import RunState
from aetheria.engine.typed_json import JsonObject, to_json
from aetheria.errors import AetheriaError
from aetheria.hardware.layout.leaves import (
    abstract_weights,
    averaged_param,
    evaluated_leaves,
    named_leaves,
)
from aetheria.hardware.layout.state import init_options, make_init
from aetheria.model.by_name import NamedModel, RecordedModel, remake_model
from aetheria.model.example_spec import example_shapes
from aetheria.model.fitting import optimizer_of
from aetheria.model.model import Model
from aetheria.model.precision import FLOAT32, Precision
from aetheria.plugins.bounded import build_described

ExampleSpec = JsonObject


class WeightsRequest(NamedTuple):
    """What the caller knows about the model of a weight file.

    Attributes:
        model_name: the name of the model; None: the name in the file.
        model_params: hyperparameters that the file does not contain.
        project: the project folder.
        input_shape: the shape of one example; None: as the file or the model says.
        example_spec: the columns of one example of the dataset, if a dataset is known.
    """

    model_name: str | None
    model_params: Mapping[str, Any]
    project: Path | None
    input_shape: Sequence[int] | None = None
    example_spec: ExampleSpec | None = None


class ImportedWeights(NamedTuple):
    """What was read of a file of weights.

    Attributes:
        path: the file.
        arrays: leaf path -> array, of parameters and model state.
        model: the model that they are of.
        example_spec: column name -> {"shape", "dtype"} of one example.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    model: NamedModel
    example_spec: ExampleSpec


def looks_like_weights(path: Path) -> bool:
    """Whether a path is a weight file of PyTorch, or an exported folder."""
    files = (path, path / "model.safetensors")
    return any(f.is_file() and f.suffix in (".pt", ".pth", ".bin", ".safetensors") for f in files)


def read_weights(path: Path, request: WeightsRequest) -> ImportedWeights:
    """Reads weights of PyTorch as the leaves of the model that they belong to.

    Raises:
        AetheriaError: torch is missing, or the file is damaged or belongs to another model.
    """
    require_torch(str(path))
    from aetheria.hardware.torch.weight_files import read_weight_file

    tensors, about = read_weight_file(path)
    if request.model_name is None and "model_name" not in about:
        raise AetheriaError(
            f"model_name: expected one, since {path} contains only weights, got none; add it"
        )
    model = remake_model(
        _recorded(about), str(path), request.project, request.model_name, request.model_params
    )
    spec = request.example_spec
    if spec is None and request.input_shape is None:
        spec = about.get("example_spec")
    spec = spec or _inputs(model.model, tensors, request.input_shape)
    link = _link(model.model, spec, _precision_of(tensors), str(path), len(tensors))
    return ImportedWeights(path, link.to_leaves(tensors, str(path)), model, spec)


def export_weights(
    snapshot: Snapshot, to: Path, project: Path | None, model_name: str | None = None
) -> Mapping[str, Any]:
    """Writes the weights of a snapshot, averaged ones if it has any, under PyTorch's names.

    Args:
        snapshot: with its record.
        to: the file or folder to write.
        project: the project folder.
        model_name: the model; None: the name in the snapshot.

    Returns:
        Name -> array, as written.

    Raises:
        AetheriaError: torch is missing, the model has no PyTorch counterpart, or `to` cannot be
            written.
    """
    require_torch("export")
    from aetheria.hardware.torch.weight_files import write_weight_file

    run = snapshot.record.run
    spec, said = run.example_spec, recorded_model(run)
    if model_name is not None:  # the same model under a name that the caller gives
        said = said._replace(name=model_name)
    name, params, model = remake_model(said, str(snapshot.path), project, model_name)
    arrays = {p: _at_least_float32(a) for p, a in evaluated_leaves(snapshot.arrays).items()}
    precision = Precision.parse(run.mixed_precision)
    wide = precision if precision.params == np.float64 else FLOAT32
    link = _link(model, spec, wide, str(snapshot.path), len(arrays))
    tensors = link.to_tensors(arrays)
    resolved = {} if run.resolved is None else to_json(run.resolved)
    about = {"model_name": name, "model_params": params, "example_spec": spec, "resolved": resolved}
    write_weight_file(to, tensors, about)
    return tensors


def first_snapshot(
    weights: ImportedWeights, config: Config, project: Path | None
) -> tuple[Mapping[str, np.ndarray], SnapshotRecord]:
    """A state of step 0 that begins with these weights: its arrays, and its record."""
    model, spec = build_model(config, project), weights.example_spec
    precision = Precision.parse(config.mixed_precision)
    init = jax.jit(
        make_init(model, optimizer_of(model, 1), precision),
        compiler_options=init_options(jax.default_backend()),
    )
    arrays = named_leaves(init(jax.random.key(config.seed), _example(spec, str(weights.path))))
    arrays = {path: np.array(array) for path, array in arrays.items()}
    for path, array in arrays.items():
        source = averaged_param(path) or path
        if source in weights.arrays:
            arrays[path] = weights.arrays[source].astype(array.dtype)
    lineage = ImportedFrom(file=str(weights.path))
    resolved = ResolvedArguments(model_params=resolve_model(config, project))
    run = describe_run(config, spec, lineage=lineage, resolved=resolved)
    return arrays, RunState().record(run)


def spec_of_data(config: Config, project: Path | None) -> ExampleSpec:
    """The columns of one example in the dataset of a config."""
    return build_feed(config, project, build_model(config, project)).example_spec()


def _link(
    model: Model, spec: ExampleSpec, precision: Precision, where: str, num_arrays: int
) -> Any:
    from aetheria.hardware.torch.correspondence import Correspondence
    from aetheria.hardware.torch.counterparts import COUNTERPARTS

    batch = _example(spec, where)

    def build() -> Correspondence:
        weights = named_leaves(abstract_weights(model, precision, batch))
        return Correspondence(COUNTERPARTS.make(model, batch), weights)

    return build_described(build, where, num_arrays)


def _recorded(about: Mapping[str, Any]) -> RecordedModel:
    """What a file of weights says of its model."""
    resolved = about.get("resolved")
    known = resolved.get("model_params") if isinstance(resolved, Mapping) else None
    return RecordedModel(about.get("model_name"), about.get("model_params", {}), known)


def _inputs(
    model: Model, tensors: Mapping[str, np.ndarray], shape: Sequence[int] | None
) -> dict[str, dict[str, Any]]:
    from aetheria.hardware.torch.counterparts import COUNTERPARTS

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    known = COUNTERPARTS.infer_inputs(model, shapes)
    if shape is None and known is None:
        raise AetheriaError(
            f"input_shape: expected the shape of one example, since neither the weights nor "
            f"{type(model).__name__} specify it, got none; add it, such as 28,28,1"
        )
    own_shape, dtype = known or ((), "float32")
    return {"inputs": {"shape": list(shape or own_shape), "dtype": dtype}}


def _example(spec: ExampleSpec, where: str) -> dict[str, np.ndarray]:
    return {n: np.zeros(c.shape, c.dtype) for n, c in example_shapes(spec, where).items()}


def _precision_of(tensors: Mapping[str, np.ndarray]) -> Precision:
    """float64 if jax has it enabled and all float weights are float64; else float32."""
    floats = [t.dtype == np.float64 for t in tensors.values() if t.dtype.kind == "f"]
    wide = floats and all(floats) and jax.config.read("jax_enable_x64")
    return Precision.parse("params=float64,compute=float64,output=float64") if wide else FLOAT32


def _at_least_float32(array: np.ndarray) -> np.ndarray:
    """Widens bfloat16 and float16 to float32, which represents their values exactly."""
    array = np.asarray(array)
    narrow = array.dtype.itemsize < 4 and jax.numpy.issubdtype(array.dtype, np.floating)
    return array.astype(np.float32) if narrow else array
