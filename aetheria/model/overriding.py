"""Models of which a tool needs another hook."""

import copy
from collections.abc import Callable
from typing import Any

from aetheria.model.model import Model


def with_hooks(model: Model, **hooks: Callable[..., Any]) -> Model:
    """A copy of a model that has other hooks; every other hook and field is the model's.

    Args:
        model: the model, which stays as it is.
        hooks: name of a method -> a function that takes the model first.
    """
    kind = type(model)
    changed = copy.copy(model)
    # A subclass of the same name, set past the dataclass, which is frozen.
    overridden = type(kind.__name__, (kind,), {**hooks, "__slots__": ()})
    object.__setattr__(changed, "__class__", overridden)
    return changed
