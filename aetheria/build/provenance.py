"""What a run depends on beside its config and its state, as every snapshot records it."""

import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aetheria
from aetheria.build.given import Given
from aetheria.config import MODEL_KEYS, Config
from aetheria.data import DataSplits
from aetheria.data.fingerprint import fingerprint
from aetheria.engine.interfaces import AnyProgram
from aetheria.engine.record import (
    CodeDigest,
    DataFingerprint,
    Lineage,
    Provenance,
    ResolvedArguments,
    RunRecord,
)
from aetheria.engine.typed_json import JsonObject, read_json
from aetheria.hardware.jax.environment import (
    describe_processor,
    describe_settings,
)
from aetheria.hardware.strategy import Strategy
from aetheria.model.by_name import RecordedModel
from aetheria.model.model import Model
from aetheria.plugins import DATA, MODELS
from aetheria.plugins.code import digest_code
from aetheria.plugins.import_path import find_imported, is_import_path
from aetheria.plugins.resolved import resolve_arguments, without_added


class ListenerChoice(NamedTuple):
    """A listener that a config names.

    Attributes:
        key: the config's key, `loggers` or `callbacks`.
        name: its name there.
        factory: what makes it.
        arguments: those that the config gives.
    """

    key: str
    name: str
    factory: Callable[..., object]
    arguments: Mapping[str, Any]


def describe_run(
    config: Config,
    example_spec: JsonObject,
    *,
    lineage: Lineage | None,
    resolved: ResolvedArguments,
    provenance: Provenance | None = None,
    encoding: JsonObject | None = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> RunRecord:
    """Makes what the record of every snapshot says of its run."""
    return RunRecord(
        config=config.to_dict(),
        example_spec=example_spec,
        versions=versions(),
        lineage=lineage,
        resolved=resolved,
        provenance=provenance,
        encoding=encoding,
        input_ranges=input_ranges,
    )


def resolve_run(
    config: Config,
    project: Path | None,
    model: Model,
    listeners: Sequence[ListenerChoice],
    given: Given,
) -> ResolvedArguments:
    """Resolves every argument of the model, the dataset and the listeners, defaults included."""
    data_params = {}
    if given.data is None:
        dataset = DATA.get(config.data_name, project)
        data_params = resolve_arguments(dataset, "data_params", config.data_params)
    of_listeners: dict[str, dict[str, JsonObject]] = {"loggers": {}, "callbacks": {}}
    for (key, name), listener in _numbered(listeners).items():
        where = f"{key}.{listener.name}"
        of_listeners[key][name] = resolve_arguments(
            listener.factory, where, listener.arguments, "context"
        )
    made_by_function = False
    if given.model is None:
        made_by_function = MODELS.get(config.model_name, project) is not type(model)
    return ResolvedArguments(
        model_params=resolve_model(config, project) if given.model is None else model_fields(model),
        data_params=data_params,
        loggers=of_listeners["loggers"],
        callbacks=of_listeners["callbacks"],
        model=model_fields(model) if made_by_function else None,
    )


def describe_provenance(
    config: Config,
    project: Path | None,
    *,
    model: Model,
    splits: DataSplits,
    listeners: Sequence[ListenerChoice],
    strategy: Strategy[AnyProgram],
    given: Given,
) -> Provenance:
    """Describes what a run depends on beside its config and its state.

    Args:
        config: the run's.
        project: the project folder.
        model: the run's.
        splits: the run's dataset.
        listeners: those that the config names.
        strategy: where the run computes.
        given: what was given as an object.
    """
    made_by = type(model) if given.model is not None else MODELS.get(config.model_name, project)
    code = {"model": _digest(made_by, project)}
    if given.data is None:
        code["data"] = _digest(DATA.get(config.data_name, project), project)
        for name, path in config.data_params.items():
            if is_import_path(path) and (part := find_imported(path)) is not None:
                code[f"data_params.{name}"] = _digest(part, project)
    if splits.augment is not None:
        code["augment"] = _digest(splits.augment, project)
    if (counterpart := strategy.counterpart(model)) is not None:
        code["counterpart"] = _digest(counterpart, project)
    names: list[str] = []
    for (key, name), listener in _numbered(listeners).items():
        code[f"{key}.{name}"] = _digest(listener.factory, project)
        names.append(name)
    for each in given.listeners:
        names.append(number_name(each.name, names))
        code[f"callbacks.{names[-1]}"] = _digest(each.source, project)
    settings, machine = _describe_environment(strategy)
    parts = {"train": splits.train, **splits.evals, **splits.tests}
    data = {name: fingerprint(source) for name, source in parts.items()}
    return Provenance(
        code=code,
        settings=settings,
        machine=machine,
        data={name: read_json(DataFingerprint, said, name) for name, said in data.items()},
    )


def recorded_model(run: RunRecord) -> RecordedModel:
    """What the record of a run says of its model, for `remake_model`."""
    resolved = None if run.resolved is None else run.resolved.model_params
    params = run.config.get("model_params", {})
    return RecordedModel(run.config.get("model_name"), params, resolved)


def _numbered(
    listeners: Sequence[ListenerChoice],
) -> dict[tuple[str, str], ListenerChoice]:
    """Key and name -> listener; the second of one name is `name#2`."""
    numbered: dict[tuple[str, str], ListenerChoice] = {}
    for listener in listeners:
        known = [name for key, name in numbered if key == listener.key]
        numbered[listener.key, number_name(listener.name, known)] = listener
    return numbered


def number_name(name: str, known: Collection[str]) -> str:
    """The name of a listener among others; that of a second one of the same name is `name#2`."""
    number = sum(each.partition("#")[0] == name for each in known)
    return f"{name}#{number + 1}" if number else name


def _digest(target: object, project: Path | None) -> CodeDigest | None:
    found = digest_code(target, project)
    return None if found is None else read_json(CodeDigest, found, "code")


def _describe_environment(strategy: Strategy[AnyProgram]) -> tuple[JsonObject, JsonObject]:
    """The settings and the machine that decide the bits of a run."""
    settings = {**describe_settings(os.environ), **strategy.describe_settings()}
    return settings, {**strategy.describe_machine(), **describe_processor()}


def model_fields(model: Model) -> dict[str, Any]:
    """The fields of a model, as JSON values: a function that makes it may leave some as they are.

    Of a model that is no dataclass there are none.
    """
    if not dataclasses.is_dataclass(model):
        return {}
    return without_added(model, {f.name: getattr(model, f.name) for f in dataclasses.fields(model)})


def resolve_model(config: Config, project: Path | None) -> dict[str, Any]:
    """Every hyperparameter of the config's model, defaults included, as JSON values."""
    factory = MODELS.get(config.model_name, project)
    return resolve_arguments(factory, "model_params", model_params(config))


def model_params(config: Config) -> dict[str, Any]:
    """The hyperparameters that a config gives, its short keys among them."""
    shorts = {name: getattr(config, name) for name in MODEL_KEYS}
    given = {name: value for name, value in shorts.items() if value is not None}
    return {**config.model_params, **given}


def versions() -> dict[str, str]:
    """What ran: recorded in every snapshot and summary, since bits depend on it."""
    loaded = ["torch"] if "torch" in sys.modules else []
    loaded += ["pillow"] if "aetheria.data.pictures" in sys.modules else []
    return versions_with(*loaded)


def versions_with(*packages: str) -> dict[str, str]:
    """The versions of Aetheria, of Python, of what every run is computed by, and of packages."""
    always = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {name: importlib.metadata.version(name) for name in (*always, *packages)}
    return {"aetheria": aetheria.__version__, "python": platform.python_version(), **found}
