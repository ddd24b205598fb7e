"""Names the column that a model reads and the data does not have."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax

from aetheria.errors import AetheriaError
from aetheria.model.model import Batch, LossOutput, Model
from aetheria.model.nesting import nested_columns
from aetheria.plugins.user_code import place, user_frames


class _MissingColumn(Exception):
    """A model looked up a column that is not there."""

    def __init__(self, name: object):
        self.name = name


class _Columns(dict):
    """A batch that distinguishes a missing column from any other KeyError."""

    def __missing__(self, name: object) -> None:
        raise _MissingColumn(name)


@contextmanager
def named_missing_column(model: Model, example: Batch) -> Iterator[None]:
    """Turns a KeyError of tracing `model` into an AetheriaError if a column is missing.

    A KeyError may come from anywhere in a model. So its hooks are traced again, with a batch that
    reports which missing column was looked up; if they fail in another way, the first error stays.

    Args:
        model: the model whose hooks are traced in the body.
        example: column name -> shape and dtype, or array, [micro_batch, ...].

    Raises:
        AetheriaError: the model reads a column that is missing.
        KeyError: the error of the body, if it has another cause.
    """
    try:
        yield
    except KeyError as error:
        name = _find_missing(model, example)
        if name is None and error.args == ("inputs",) and "inputs" not in example:
            name = "inputs"  # the step casts it, even if the model does not read it
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


def _find_missing(model: Model, example: Batch) -> object:
    """Returns the name of the missing column, or None."""

    def trace(key: jax.Array, batch: Mapping[str, jax.Array]) -> LossOutput:
        columns = _Columns(nested_columns(batch))
        params, model_state = model.init(key, columns)
        return model.loss(params, model_state, columns, key, True)

    try:
        jax.eval_shape(trace, jax.random.key(0), dict(example))
    except _MissingColumn as missing:
        return missing.name
    except Exception:
        return None
    return None
