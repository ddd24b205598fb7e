"""Augmentation: a user's function that changes examples as they are read for training."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aetheria.data.checked_source import convert_classes
from aetheria.data.columns import as_column, cast_like, shape_text
from aetheria.data.error_context import located
from aetheria.data.sources import Columns, Source
from aetheria.errors import AetheriaError, shown
from aetheria.model.classes import Classes
from aetheria.model.nesting import flat_columns, nested_columns
from aetheria.plugins.user_code import place_of


class Augmentation:
    """Calls a function for every example, and checks what it returns.

    The generator that the function is given depends on (seed, epoch, index of the example) alone.
    So a resumed run, and any number of threads, processes and devices, see the same examples.

    Args:
        function: (example, rng) -> example. An example is a mapping from column names to arrays
            without the dim of the batch; they are copies, which the function may change.
        source: the training split.
        classes: the model's declarations of columns of class numbers or tokens, by column name.
        seed: the run's.

    Raises:
        AetheriaError: it is no such function, or changes the columns, shapes or dtypes of the first
            example.
    """

    def __init__(
        self,
        function: Callable[[Any, np.random.Generator], Any],
        source: Source,
        classes: Mapping[str, Classes],
        seed: int,
    ):
        _check_signature(function)
        self._function, self._classes, self._seed = function, classes, seed
        self._where = f"augment, {_name(function)}"
        first = np.zeros(1, np.int64)
        self(source.read(first), first, 0)

    def __call__(self, columns: Columns, indices: np.ndarray, epoch: int) -> Columns:
        """Augments examples.

        Args:
            columns: column name -> [n, ...].
            indices: i64 [n], of the examples in the training split.
            epoch: in which they are read.

        Returns:
            Column name -> [n, ...], of the same shapes and dtypes.
        """
        changed = {name: np.empty_like(column) for name, column in columns.items()}
        generators = _Generators(self._seed, epoch)
        for row, index in enumerate(indices.tolist()):
            example = {name: column[row].copy() for name, column in columns.items()}
            returned = self._function(nested_columns(example), generators.of_example(index))
            with located(self._where):
                values = _checked(returned, columns, index)
            for name, value in values.items():
                changed[name][row] = value
        with located(self._where):
            return convert_classes(changed, self._classes, indices)


class _Generators:
    """The generators of the examples of one epoch: streams of one Philox that do not overlap.

    Its key is that of the epoch's order, which begins at the counter 0. That of an example begins
    at (0, 0, index, 1), so it meets no other before 2^128 blocks. To set the state of one generator
    takes a fraction of the time that making one takes.
    """

    def __init__(self, seed: int, epoch: int):
        self._philox: Any = np.random.Philox(key=np.array([seed, epoch], np.uint64))
        self._fresh: dict[str, Any] = dict(self._philox.state)
        self._generator = np.random.Generator(self._philox)

    def of_example(self, index: int) -> np.random.Generator:
        self._fresh["state"]["counter"] = np.array([0, 0, index, 1], np.uint64)
        self._philox.state = self._fresh
        return self._generator


def _checked(returned: object, before: Columns, index: int) -> dict[str, np.ndarray]:
    """The columns of an augmented example, like those of the batch `before`.

    Raises:
        AetheriaError: a column is missing, new, or of another shape, or its dtype cannot hold a
            value; the row is named.
    """
    if not isinstance(returned, Mapping):
        raise AetheriaError(
            f"row {index}: expected an example, a mapping of {', '.join(before)}, got "
            f"{shown(returned)}; return {{**example, 'inputs': …}}"
        )
    columns = flat_columns(returned)
    if columns.keys() != before.keys():
        raise AetheriaError(
            f"row {index}: expected the columns {', '.join(before)}, got "
            f"{', '.join(map(str, columns)) or 'none'}; return {{**example, 'inputs': …}}"
        )
    values = {}
    for name, column in before.items():
        value = as_column(name, [columns[name]], [index])
        if value.shape[1:] != column.shape[1:]:
            raise AetheriaError(
                f"column {name!r}: expected the shape {shape_text(column.shape[1:])} that it had, "
                f"got {shape_text(value.shape[1:])} in row {index}; cut, pad or resize it there"
            )
        values[name] = cast_like(name, value, column.dtype, [index])[0]
    return values


def _check_signature(function: object) -> None:
    problem = None if callable(function) else shown(function)
    if callable(function):
        try:
            inspect.signature(function).bind({}, None)
        except TypeError as error:
            problem = f"{_name(function)} ({error})"
        except ValueError:  # a compiled function that does not say what it takes
            pass
    if problem is not None:
        raise AetheriaError(
            f"augment: expected a function of (example, rng), got {problem}; give one"
        )


def _name(function: object) -> str:
    """The name of a function or of its class, and the place of its definition."""
    while isinstance(function, functools.partial):
        function = function.func
    target = function if hasattr(function, "__qualname__") else type(function)
    name, place = getattr(target, "__qualname__", ""), place_of(target)
    return name if place == name else f"{name} ({place})"
