"""A model that a program gives as an object: checked, and described as a config would."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from aetheria.config import MODEL_KEYS
from aetheria.errors import ConfigError
from aetheria.model.model import Model
from aetheria.plugins import MODELS
from aetheria.plugins.resolved import is_plain, to_json


def check_given_model(model: object) -> Model:
    """Returns a model as it is; raises ConfigError if it is none."""
    if isinstance(model, type) and issubclass(model, Model):
        raise ConfigError(
            f"model: expected an aetheria Model, got the class {model.__name__}; call it: "
            f"{model.__name__}()"
        )
    if not isinstance(model, Model):
        raise ConfigError(
            f"model: expected an aetheria Model, got a {type(model).__name__}; subclass "
            "aetheria.Model, Classifier or Regressor"
        )
    return model


def describe_given_model(model: Model) -> dict[str, Any]:
    """The keys of a config that describe a model object: its name and its hyperparameters.

    The name is the one that its class is registered by, or else `module:Class`. A field that is no
    JSON value is left out, so a model that has one cannot be made from the config alone.
    """
    params: dict[str, Any] = {}
    if dataclasses.is_dataclass(model):
        fields = (item.name for item in dataclasses.fields(model) if item.init)
        values = {name: to_json(getattr(model, name)) for name in fields}
        params = {name: value for name, value in values.items() if is_plain(value)}
    kind = type(model)
    name = MODELS.name_of(kind) or f"{kind.__module__}:{kind.__qualname__}"
    return {"model_name": name, "model_params": params}


def with_model_keys(model: Model, keys: Mapping[str, object]) -> Model:
    """Sets the config's keys that are hyperparameters of the model, such as `learning_rate`.

    Raises:
        ConfigError: the model has no such field.
    """
    given = {name: keys[name] for name in MODEL_KEYS if keys.get(name) is not None}
    if not given:
        return model
    known = dataclasses.fields(model) if dataclasses.is_dataclass(model) else ()
    for name in given:
        if name not in {item.name for item in known}:
            raise ConfigError(
                f"{name}: expected a model with a field {name}, got a {type(model).__name__}, "
                f"which has none; give it one, and use it in its optimizer() or network()"
            )
    return dataclasses.replace(model, **given)  # pyright: ignore[reportArgumentType]
