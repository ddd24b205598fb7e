"""Says which column of the data a model looks for in vain."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from aetheria.errors import AetheriaError
from aetheria.model.model import Model
from aetheria.model.nesting import nested_columns
from aetheria.plugins.user_code import place, user_frames


class _Missing(Exception):
    """A column that was looked up and is not there."""


class _Columns(dict):
    """A batch that tells a missing column from any other KeyError."""

    def __missing__(self, name: Any) -> Any:
        raise _Missing(name)


@contextmanager
def named_missing_column(model: Model, example: Mapping[str, Any]) -> Iterator[None]:
    """Makes an AetheriaError of a KeyError that tracing `model` gave, if a column is missing.

    A KeyError may come from anywhere in a model. So its hooks are traced again, with a batch that
    knows which of its columns were asked for; whatever else they raise leaves the first error.

    Args:
        model: whose hooks are traced in the body.
        example: column name -> shape and dtype, or array, [micro_batch, ...].
    """
    try:
        yield
    except KeyError as error:
        name = _find_missing(model, example)
        if name is None and error.args == ("inputs",) and "inputs" not in example:
            name = "inputs"  # the step casts it, whatever the model looks at
        if name is None:
            raise
        columns = [column for column in example if column != "mask"]
        near = difflib.get_close_matches(str(name), columns, n=1)
        advice = f"rename {near[0]!r}" if near else "rename or add the column in the dataset"
        frames = user_frames(error)
        at = f" at {place(frames[-1])}" if frames else ""
        raise AetheriaError(
            f"data_name: expected a column {name!r}, which {type(model).__name__} reads{at}, got "
            f"{', '.join(columns)}; {advice}"
        ) from error


def _find_missing(model: Model, example: Mapping[str, Any]) -> Any:
    def trace(key: jax.Array, batch: Any) -> Any:
        columns = _Columns(nested_columns(batch))
        params, model_state = model.init(key, columns)
        return model.loss(params, model_state, columns, key, True)

    try:
        jax.eval_shape(trace, jax.random.key(0), dict(example))
    except _Missing as missing:
        return missing.args[0]
    except Exception:
        return None
    return None
