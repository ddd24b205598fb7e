"""Models by name: a name that the caller gives, or a name that a file contains.

A file chooses no code: an import path in it is not followed, see `Registry.find_recorded`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from aetheria.errors import ConfigError, SnapshotError, shown
from aetheria.model.model import Model
from aetheria.plugins import MODELS
from aetheria.plugins.arguments import call_with
from aetheria.plugins.checks import find_model
from aetheria.plugins.resolved import is_plain, restore_arguments, same, to_json

Hyperparameters: TypeAlias = Mapping[str, object]
Record: TypeAlias = Mapping[str, object]  # JSON values by name, from a file


class RecordedModel(NamedTuple):
    """What a file says of its model. Nothing of it is trusted: each may be any JSON value.

    Attributes:
        name: the model's name.
        params: the hyperparameters that were given.
        resolved: all hyperparameters, defaults included, since a default may have changed in the
            code; None: the file does not say them.
    """

    name: object
    params: object
    resolved: object = None


class NamedModel(NamedTuple):
    """A model, and the name and hyperparameters it was made from."""

    name: str
    params: Hyperparameters
    model: Model


def make_model(
    name: str,
    params: Hyperparameters,
    project: Path | None,
    own_keys: Mapping[str, str] = MappingProxyType({}),
) -> Model:
    """Makes a model from a name that the caller gives: a registered name, or an import path.

    Args:
        name: the name.
        params: the hyperparameters.
        project: the project folder.
        own_keys: as in `prepare_call`.

    Raises:
        AetheriaError: nothing has this name, it is no model, or it takes other hyperparameters.
    """
    factory = find_model(MODELS, name, project, base=Model)
    model = call_with(factory, "model_params", params, own_keys=own_keys)
    if not isinstance(model, Model):  # a registered function may return anything
        raise ConfigError(
            f"model_name: expected an aetheria Model, got {name!r}, which makes a "
            f"{type(model).__name__}; subclass aetheria.Model"
        )
    return model


def check_agrees(
    said: RecordedModel,
    where: str,
    name: str | None,
    params: Hyperparameters,
    sizes_of_data: Collection[str] = (),
) -> None:
    """Compares the caller's hyperparameters with those of a file that holds weights of this model.

    A 0 that stands for a size of the data is compared by `init`, which sees the data's shapes.

    Raises:
        ConfigError: names the first that differs.
    """
    if name is not None and name != said.name:
        return  # another model, of which the file says nothing
    known: dict[object, object] = {}
    for each in (said.resolved, said.params):
        known |= each if isinstance(each, Mapping) else {}
    for key, value in params.items():
        if key in sizes_of_data and known.get(key) == 0:
            continue
        if key in known and is_plain(known[key]) and not same(to_json(value), known[key]):
            raise ConfigError(
                f"model_params.{key}: expected {shown(known[key])}, as in {where}, got "
                f"{shown(value)}; leave it out"
            )


def remake_model(
    said: RecordedModel,
    where: str,
    project: Path | None,
    name: str | None = None,
    params: Hyperparameters | None = None,
) -> NamedModel:
    """Makes the model that a file describes, or the one that the caller names instead.

    Args:
        said: what the file says.
        where: what to call the file in errors.
        project: the project folder.
        name: the caller's name; None: the file's.
        params: the caller's hyperparameters. They override those of the file, which apply only if
            both name the same model.

    Raises:
        AetheriaError: there is no such model, the file gives an import path, or the
            hyperparameters are not those of the model.
    """
    is_same = name is None or name == said.name
    kept = said.params if is_same else {}
    if not isinstance(kept, Mapping) or not all(isinstance(key, str) for key in kept):
        raise SnapshotError(
            f"{where}: expected model_params by name, got {shown(kept)}; use another file"
        )
    if name is None:
        name = MODELS.find_recorded(said.name, project, where)
    all_params = {**kept, **(params or {})}
    if is_same and isinstance(said.resolved, Mapping):
        factory = find_model(MODELS, name, project, base=Model)
        all_params = {**restore_arguments(factory, said.resolved), **all_params}
    return NamedModel(name, all_params, make_model(name, all_params, project))
