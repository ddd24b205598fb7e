"""What a run is made of, beside its config and its state: written down in every snapshot."""

import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aetheria
from aetheria.config import MODEL_KEYS, Config
from aetheria.data import DataSplits
from aetheria.data.fingerprint import fingerprint
from aetheria.hardware.jax.environment import (
    describe_machine,
    describe_processor,
    describe_settings,
)
from aetheria.model.model import Model
from aetheria.plugins import DATA, MODELS
from aetheria.plugins.code import digest_code
from aetheria.plugins.resolved import resolve_arguments, to_json
from aetheria.snapshots.provenance import Provenance


class ListenerChoice(NamedTuple):
    """A listener that a config names: the config's key, its name, what makes it, and with what."""

    key: str
    name: str
    factory: Any
    arguments: Mapping[str, Any]


def describe_provenance(
    config: Config,
    project: Path | None,
    *,
    model: Model,
    splits: DataSplits,
    listeners: Sequence[ListenerChoice],
    strategy: Any,
) -> Provenance:
    """Describes what a run is made of.

    Args:
        config: the run's.
        project: the project folder.
        model: made of it.
        splits: likewise.
        listeners: those that it names.
        strategy: where it computes.
    """
    dataset = DATA.get(config.data_name, project)
    resolved: dict[str, Any] = {
        "model_params": resolve_model(config, project),
        "data_params": resolve_arguments(dataset, "data_params", config.data_params),
        "loggers": {},
        "callbacks": {},
    }
    factory = MODELS.get(config.model_name, project)
    if factory is not type(model):
        resolved["model"] = model_fields(model)
    code = {
        "model": digest_code(factory, project),
        "data": digest_code(dataset, project),
    }
    for listener in listeners:
        of_kind = resolved[listener.key]
        number = sum(name.split("#")[0] == listener.name for name in of_kind)
        name = f"{listener.name}#{number + 1}" if number else listener.name
        where = f"{listener.key}.{listener.name}"
        of_kind[name] = resolve_arguments(listener.factory, where, listener.arguments, "context")
        code[f"{listener.key}.{name}"] = digest_code(listener.factory, project)
    settings, machine = _describe_surroundings(strategy)
    return Provenance(
        resolved=resolved,
        code=code,
        settings=settings,
        machine=machine,
        data={"train": fingerprint(splits.train), "eval": fingerprint(splits.eval)},
        versions=versions(),
        is_elastic=config.reproducibility == "elastic",
    )


def _describe_surroundings(strategy: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = describe_settings(os.environ)
    if strategy.name != "torch":
        return settings, describe_machine(list(strategy.mesh.devices.flat))
    from aetheria.hardware.torch import environment

    machine = environment.describe_machine(strategy.ranks) | describe_processor()
    return settings | environment.describe_settings(), machine


def model_fields(model: Model) -> dict[str, Any]:
    """The fields of a model, as JSON values: a function that makes it may leave some as they are.

    Of a model that is no dataclass there are none.
    """
    if not dataclasses.is_dataclass(model):
        return {}
    return {f.name: to_json(getattr(model, f.name)) for f in dataclasses.fields(model)}


def resolve_model(config: Config, project: Path | None) -> dict[str, Any]:
    """Every hyperparameter of the config's model, defaults included, as JSON values."""
    factory = MODELS.get(config.model_name, project)
    return resolve_arguments(factory, "model_params", model_params(config))


def model_params(config: Config) -> dict[str, Any]:
    """The hyperparameters that a config gives, its short keys among them."""
    shorts = {name: getattr(config, name) for name in MODEL_KEYS}
    given = {name: value for name, value in shorts.items() if value is not None}
    return {**config.model_params, **given}


def describe_run(
    config: Config,
    example_spec: Mapping[str, Any],
    lineage: Mapping[str, Any] | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """What every snapshot's record says of its run, beside where that stands."""
    return {
        **provenance,
        "config": config.to_dict(),
        "example_spec": example_spec,
        "versions": versions(),
        "lineage": lineage,
    }


def versions() -> dict[str, str]:
    """What ran: recorded in every snapshot and summary, since bits depend on it."""
    packages = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]
    packages += ["torch"] if "torch" in sys.modules else []
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"aetheria": aetheria.__version__, "python": platform.python_version(), **found}
