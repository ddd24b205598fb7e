"""What a program gives to a run as objects, in place of the names in a config."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from aetheria.config import MODEL_KEYS, Config
from aetheria.errors import ConfigError
from aetheria.model.model import Model
from aetheria.observe.listener import Listener, RunContext
from aetheria.plugins import GIVEN, MODELS
from aetheria.plugins.resolved import is_plain, to_json


class GivenListener(NamedTuple):
    """A listener that a program gives.

    Attributes:
        name: what messages call it; several may have one name.
        make: makes it, or returns it.
        source: its class, or the function that it is: what its code is recorded from.
    """

    name: str
    make: Callable[[RunContext], Listener]
    source: object


@dataclass(frozen=True, kw_only=True)
class Given:
    """Objects in place of names; None: the config names it.

    Attributes:
        model: the model.
        data: the dataset, in any form that a dataset's function may return.
        listeners: come after those that the config names.
    """

    model: Model | None = None
    data: object = None
    listeners: tuple[GivenListener, ...] = ()


NOTHING = Given()


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
    return replace(model, **given)  # pyright: ignore[reportArgumentType]


def refuse_names_of_objects(config: Config, given: Given) -> None:
    """Raises ConfigError if the config says that an object was given and none is here.

    So it is for a run that was started from Python and is continued by a command.
    """
    if config.data_name == GIVEN and given.data is None:
        raise ConfigError(
            "data_name: expected the data that this run was started with, which a program gave "
            "as objects, got none; continue it from Python: aetheria.train(…, data=…, resume=…)"
        )
