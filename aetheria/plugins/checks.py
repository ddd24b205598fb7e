"""Checks what a name stands for before anything is called. A name is text: it may say `os:system`.

Knows no model and no dataset: the caller says which class a model extends, and which class a
dataset function returns.
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
    """Finds a subclass of `base`, or a registered function that makes one.

    Raises:
        RegistryError: there is none of that name, or the name stands for something else.
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
    """Finds a class with a method `notify`, or a registered function that makes a listener.

    Args:
        registry: of the loggers, or of the callbacks.
        key: what the config calls them.
        name: of one.
        project: the project folder.

    Raises:
        RegistryError: there is none of that name, or the name stands for something else.
    """
    target = registry.get(name, project)
    if inspect.isclass(target):
        is_listener = callable(getattr(target, "notify", None))
    else:
        is_listener = registry.declares(target) and callable(target)
    if not is_listener:
        raise RegistryError(
            f"{key}: expected a class with a method notify(event), got {shown(name)}, which is "
            f"{_described(target)}; write one, or name another"
        )
    return target


def check_listener(listener: Any, key: str, name: str) -> None:
    """Raises RegistryError if what was made has no `notify` that takes one event."""
    notify = getattr(listener, "notify", None)
    if not callable(notify):
        raise RegistryError(
            f"{key}.{name}: expected an object with a method notify(event), got a "
            f"{type(listener).__name__}; give it one"
        )
    try:
        signature = inspect.signature(notify)
    except (TypeError, ValueError):  # of an extension module: no signature to look at
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise RegistryError(
            f"{key}.{name}: expected notify to take one event, got notify{signature}; "
            "write notify(self, event)"
        ) from error


def find_dataset(
    registry: Registry, name: str, project: Path | None, *, returns: type
) -> Callable[..., Any]:
    """Finds a dataset function: one that is registered, is written in a file of the project, or
    whose module imports `returns`.

    Raises:
        RegistryError: there is none of that name, or the name stands for something else.
    """
    target = registry.get(name, project)
    is_dataset = registry.declares(target) or (
        (inspect.isclass(target) or inspect.isroutine(target))
        and (_lies_in(project, target) or _imports(target, returns))
    )
    if not is_dataset or not callable(target):
        raise RegistryError(
            f"data_name: expected a dataset function, got {shown(name)}, which is "
            f"{_described(target)}; decorate your own function with register_data, or write it in "
            "a file of the project folder"
        )
    return target


def _lies_in(project: Path | None, target: Any) -> bool:
    """Whether a function or class is written in the project's own files."""
    try:
        file = Path(inspect.getfile(inspect.unwrap(target)))
    except (TypeError, OSError, ValueError):  # built in
        return False
    return project is not None and is_own(file, project)


def _imports(target: Any, wanted: type) -> bool:
    """Whether the module that defines a function or class has `wanted` among its names."""
    module = sys.modules.get(getattr(inspect.unwrap(target), "__module__", None) or "")
    return module is not None and any(value is wanted for value in vars(module).values())


def _described(target: Any) -> str:
    kind = "the class" if inspect.isclass(target) else f"a {type(target).__name__}"
    name = getattr(target, "__qualname__", None)
    return f"{kind} {name}" if name else kind
