"""Which PyTorch counterpart belongs to a model. The model does not name it: it is registered from
outside, and found when the PyTorch backend needs it. Imports no torch.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from aetheria.errors import AetheriaError
from aetheria.model.model import Batch, Model

if TYPE_CHECKING:
    from aetheria.hardware.torch.twin import TorchTwin

Shapes: TypeAlias = Mapping[str, Sequence[int]]
InputSpec: TypeAlias = tuple[tuple[int, ...], str]
Factory = TypeVar("Factory", bound=Callable[..., Any])


class Counterpart(NamedTuple):
    """What is registered for a model class.

    Attributes:
        make: (model, example batch) -> the counterpart.
        infer_inputs: see `register`; None: nothing is known.
    """

    make: "Callable[[Any, Batch], TorchTwin]"
    infer_inputs: Callable[[Any, Shapes], InputSpec | None] | None


class CounterpartRegistry:
    """Model classes and their PyTorch counterparts.

    A class is known by its file and its name, since one file may be imported under two names.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Counterpart] = {}

    def register(
        self,
        model_class: type[Model],
        *,
        infer_inputs: Callable[[Any, Shapes], InputSpec | None] | None = None,
    ) -> Callable[[Factory], Factory]:
        """Decorates the function that makes the counterpart of a model class and its subclasses.

        The function takes the model and an example batch (column name -> array [batch, ...]) and
        returns a `TorchTwin`. It may be in any module that is imported before a run, or in the
        module `<module of the model>_torch` beside the model's, which is imported when it is
        needed.

        Args:
            model_class: the class.
            infer_inputs: (model, tensor name -> shape) -> shape and dtype of one example's inputs,
                or None. It is used for weights in a file that says nothing of their inputs.
        """

        def add(make: Factory) -> Factory:
            self._found[_key(model_class)] = Counterpart(make, infer_inputs)
            return make

        return add

    def make(self, model: Model, example_batch: Batch) -> "TorchTwin":
        """Makes a model's counterpart.

        Raises:
            AetheriaError: none is registered for its class or a base class.
        """
        return self.find(model).make(model, example_batch)

    def infer_inputs(self, model: Model, shapes: Shapes) -> InputSpec | None:
        """Infers the shape and dtype of one example's inputs from a model and its weights.

        Args:
            model: the model.
            shapes: tensor name -> shape.

        Returns:
            None: neither the hyperparameters nor the weights tell.

        Raises:
            AetheriaError: the model has no counterpart.
        """
        infer = self.find(model).infer_inputs
        return None if infer is None else infer(model, shapes)

    def find(self, model: Model) -> Counterpart:
        """Finds what is registered for a model's class, or the nearest of its base classes.

        Raises:
            AetheriaError: nothing is.
        """
        for base in type(model).__mro__:
            if not issubclass(base, Model) or base is Model:
                continue
            if _key(base) not in self._found:
                _import_beside(base)
            if (found := self._found.get(_key(base))) is not None:
                return found
        name = type(model).__name__
        raise AetheriaError(
            f"strategy: expected with 'torch' a model with a PyTorch counterpart, got {name}; "
            f"register one with aetheria.pytorch.register_counterpart({name}), or train with "
            "another strategy"
        )


def _key(model_class: type[Model]) -> tuple[str, str]:
    try:
        file = str(Path(inspect.getfile(model_class)).resolve())
    except (TypeError, OSError):  # typed into an interpreter
        file = model_class.__module__
    return file, model_class.__qualname__


def _import_beside(model_class: type[Model]) -> None:
    """Imports `<module>_torch` beside the module of a class, if there is one."""
    name = f"{model_class.__module__}_torch"
    if name in sys.modules:
        return
    try:
        exists = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the module is in no package
        exists = False
    if exists:
        importlib.import_module(name)


COUNTERPARTS = CounterpartRegistry()
register_counterpart = COUNTERPARTS.register
