"""Reads files of weights as leaves of a model, and makes a snapshot of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from aetheria.build import build_feed, build_model, require_torch
from aetheria.build.provenance import describe_run, resolve_model
from aetheria.build.weights.about import About
from aetheria.build.weights.leaf_files import is_leaf_file, read_leaf_file
from aetheria.build.weights.matching import match_leaves
from aetheria.config import Config
from aetheria.engine.record import ImportedFrom, ResolvedArguments, SnapshotRecord
from aetheria.engine.run_state import RunState
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError
from aetheria.hardware.layout.leaves import (
    abstract_weights,
    averaged_param,
    export_leaves,
    named_leaves,
)
from aetheria.hardware.layout.state import init_options, make_init
from aetheria.model.by_name import NamedModel, RecordedModel, remake_model
from aetheria.model.example_spec import example_shapes
from aetheria.model.fitting import optimizer_of
from aetheria.model.model import Model
from aetheria.model.precision import FLOAT32, Precision
from aetheria.plugins.bounded import build_described

if TYPE_CHECKING:
    from aetheria.hardware.torch.correspondence import Correspondence

ExampleSpec = JsonObject


class WeightsRequest(NamedTuple):
    """What the caller knows about the model of a weight file.

    Attributes:
        model_name: the name of the model; None: the name in the file.
        model_params: hyperparameters that the file does not contain.
        project: the project folder.
        input_shape: the shape of one example; None: as the file or the model says.
        example_spec: the columns of one example of the dataset, if a dataset is known.
        partial: whether the file may have leaves that do not fit, or lack some.
    """

    model_name: str | None
    model_params: Mapping[str, Any]
    project: Path | None
    input_shape: Sequence[int] | None = None
    example_spec: ExampleSpec | None = None
    partial: bool = False


class ImportedWeights(NamedTuple):
    """What was read of a file of weights.

    Attributes:
        path: the file.
        arrays: leaf path -> array, of parameters and model state.
        model: the model that they are of.
        example_spec: column name -> {"shape", "dtype"} of one example.
        mixed_precision: the precision policy that the arrays are stored in.
        about: what the file says beside its arrays, if it has JAX's leaf names.
        report: what did not fit; None: all did.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    model: NamedModel
    example_spec: ExampleSpec
    mixed_precision: bool | str = False
    about: About | None = None
    report: str | None = None


def looks_like_weights(path: Path) -> bool:
    """Whether a path is a file of weights, or a folder of them as model hubs have it."""
    files = (path, path / "model.safetensors")
    return any(f.is_file() and f.suffix in (".pt", ".pth", ".bin", ".safetensors") for f in files)


def read_weights(path: Path, request: WeightsRequest) -> ImportedWeights:
    """Reads weights, under PyTorch's names or JAX's, as leaves of the model that they belong to.

    Raises:
        AetheriaError: a package is missing, or the file is damaged or belongs to another model.
    """
    if is_leaf_file(path):
        return _read_leaves(path, request)
    if request.partial:
        raise AetheriaError(
            f"--partial: expected a .safetensors file with JAX's leaf names, got {path}; leave "
            "it out"
        )
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
    link = link_weights(model.model, spec, _precision_of(tensors), str(path), len(tensors))
    return ImportedWeights(path, link.to_leaves(tensors, str(path)), model, spec)


def _read_leaves(path: Path, request: WeightsRequest) -> ImportedWeights:
    given, about = read_leaf_file(path)
    where, spec = str(path), request.example_spec
    if spec is None and request.input_shape is not None:
        spec = {"inputs": {"shape": list(request.input_shape), "dtype": "float32"}}
    if about is None and (request.model_name is None or spec is None):
        raise AetheriaError(
            f"{where}: expected a description of its model, or model_name and input_shape, since "
            "the file has only weights, got none; give both"
        )
    said = RecordedModel(None, {}) if about is None else about.recorded
    model = remake_model(said, where, request.project, request.model_name, request.model_params)
    if spec is None:
        assert about is not None
        spec = about.example_spec
    precision = False if about is None else about.mixed_precision
    batch = _example(spec, where)

    def expected() -> Mapping[str, jax.ShapeDtypeStruct]:
        weights = abstract_weights(model.model, Precision.parse(precision), batch)
        return jax.eval_shape(export_leaves, weights)

    match = match_leaves(given, build_described(expected, where, len(given)))
    match.check(where, partial=request.partial, option="--partial")
    report = None if match.is_whole else match.report()
    return ImportedWeights(path, match.arrays, model, spec, precision, about, report)


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
    about = None if weights.report is not None else weights.about
    run = describe_run(
        config,
        spec,
        lineage=lineage,
        resolved=resolved,
        encoding=None if about is None else about.encoding,
        input_ranges=None if about is None else about.input_ranges,
    )
    return arrays, RunState().record(run)


def spec_of_data(config: Config, project: Path | None) -> ExampleSpec:
    """The columns of one example in the dataset of a config."""
    return build_feed(config, project, build_model(config, project)).example_spec()


def link_weights(
    model: Model, spec: ExampleSpec, precision: Precision, where: str, num_arrays: int
) -> "Correspondence":
    """Makes the map between a model's leaves and the tensors of its PyTorch counterpart."""
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
