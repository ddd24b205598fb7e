"""What loggers make of a config: flat hyperparameters; and what they refuse in their arguments."""

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from aetheria.errors import AetheriaError

_SECRET_NAME = re.compile(r"api_?key|token|passw|secret|credential", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """The values of a config by dotted names; what is not a scalar as JSON, None left out.

    >>> flatten({"seed": 1, "model_params": {"dim": 8, "act": None}, "loggers": ["csv"]})
    {'seed': 1, 'model_params.dim': 8, 'loggers': '["csv"]'}
    """
    flat: dict[str, str | int | float | bool] = {}
    for name, value in config.items():
        match value:
            case Mapping():
                flat |= flatten(value, f"{prefix}{name}.")
            case str() | int() | float():
                flat[prefix + name] = value
            case None:
                pass
            case _:
                flat[prefix + name] = json.dumps(value, default=str)
    return flat


def check_options(
    where: str, options: Mapping[str, Any], function: Callable[..., Any], set_here: Collection[str]
) -> None:
    """Checks the options that a logger hands on to a function of its library.

    Args:
        where: the logger, such as `loggers.wandb`.
        options: the config's.
        function: what takes them.
        set_here: the arguments that the logger itself gives.

    Raises:
        AetheriaError: the function has no such argument, or one is given by the logger itself.
    """
    accepted = set(inspect.signature(function).parameters).difference(set_here)
    for name in options:
        if name not in accepted:
            raise AetheriaError(
                f"{where}: expected arguments of {function.__module__.partition('.')[0]}."
                f"{function.__name__} other than {', '.join(set_here)}, got {name!r}; remove it"
            )


def refuse_credentials(where: str, arguments: Mapping[str, Any], variable: str) -> None:
    """Refuses a secret among the arguments: they are written into `config.json` and snapshots.

    Raises:
        AetheriaError: a name or an address looks like one; the value is not repeated.
    """
    for name in _secrets(arguments):
        raise AetheriaError(
            f"{where}.{name}: expected no credentials in a config, which is written into the run "
            f"folder; set the environment variable {variable} instead"
        )


def _secrets(arguments: Mapping[str, Any]) -> Iterator[str]:
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _secrets(value))
        elif (value is not None and _SECRET_NAME.search(str(name))) or (
            isinstance(value, str) and _PASSWORD_IN_URL.search(value)
        ):
            yield str(name)
