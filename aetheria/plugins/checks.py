"""Checks the object that a name stands for before it is called: a name may be `os:system`.

This file knows no model and no dataset: the caller gives the class that a model extends, and the
class that a dataset's function returns.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aetheria.errors import RegistryError, shown
from aetheria.plugins.discovery import is_own
from aetheria.plugins.registry import Registry


def find_model(registry: Registry, name: str, project: Path | None, *, base: type) -> Any:
    """Finds a model: a subclass of `base`, or a registered function that makes one.

    Raises:
        RegistryError: the name is unknown, or its object is not a model.
    """
    target = registry.get(name, project)
    is_model = issubclass(target, base) if inspect.isclass(target) else registry.declares(target)
    if not is_model or not callable(target):
        raise RegistryError(
            f"model_name: expected an aetheria Model, got {shown(name)}, which is "
            f"{_described(target)}; subclass aetheria.Model, or decorate a function that makes one "
            "with register_model"
        )
    return target


def find_listener(registry: Registry, key: str, name: str, project: Path | None) -> Any:
    """Finds a logger or a callback: a class with a method `notify`, or a registered function that
    makes a listener.

    Args:
        registry: that of the loggers, or that of the callbacks.
        key: the key of the config, `loggers` or `callbacks`.
        name: the name in the config.
        project: the project folder; None: there is none.

    Raises:
        RegistryError: the name is unknown, or its object is not a listener.
    """
    target = registry.get(name, project)
    if inspect.isclass(target):
        is_listener = callable(getattr(target, "notify", None))
    else:
        is_listener = registry.declares(target) and callable(target)
    if not is_listener:
        raise RegistryError(
            f"{key}: expected a class with a method notify(event), got {shown(name)}, which is "
            f"{_described(target)}; add the method, or name another"
        )
    return target


def check_listener(listener: object, key: str, name: str) -> None:
    """Raises RegistryError if a listener has no method `notify` that takes one event."""
    notify = getattr(listener, "notify", None)
    if not callable(notify):
        raise RegistryError(
            f"{key}.{name}: expected an object with a method notify(event), got a "
            f"{type(listener).__name__}; give it one"
        )
    try:
        signature = inspect.signature(notify)
    except (TypeError, ValueError):  # a method of an extension module has no signature
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise RegistryError(
            f"{key}.{name}: expected notify to take one event, got notify{signature}; "
            "define notify(self, event)"
        ) from error


def find_dataset(
    registry: Registry, name: str, project: Path | None, *, returns: type
) -> Callable[..., Any]:
    """Finds the function of a dataset.

    It is registered, lies in a file of the project, or lies in a module that imports `returns`.

    Raises:
        RegistryError: the name is unknown, or its object is not such a function.
    """
    target = registry.get(name, project)
    is_dataset = registry.declares(target) or (
        (inspect.isclass(target) or inspect.isroutine(target))
        and (_lies_in(project, target) or _imports(target, returns))
    )
    if not is_dataset or not callable(target):
        raise RegistryError(
            f"data_name: expected a dataset function, got {shown(name)}, which is "
            f"{_described(target)}; decorate your own function with register_data, or put it into "
            "a file of the project folder"
        )
    return target


def _lies_in(project: Path | None, target: Any) -> bool:
    """Whether a function or class is defined in the project's own files."""
    try:
        file = Path(inspect.getfile(inspect.unwrap(target)))
    except (TypeError, OSError, ValueError):  # it is built into Python
        return False
    return project is not None and is_own(file, project)


def _imports(target: Any, wanted: type) -> bool:
    """Whether the module that defines a function or class has `wanted` among its names."""
    module = sys.modules.get(getattr(inspect.unwrap(target), "__module__", None) or "")
    return module is not None and any(value is wanted for value in vars(module).values())


def _described(target: object) -> str:
    kind = "the class" if inspect.isclass(target) else f"a {type(target).__name__}"
    name = getattr(target, "__qualname__", None)
    return f"{kind} {name}" if name else kind
