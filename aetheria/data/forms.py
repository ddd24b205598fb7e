"""What a dataset's function may return, and the sources it becomes. Only plain meanings are taken;
the rest is refused in one line.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aetheria.data.feed import epoch_order
from aetheria.data.sources import ArraySource, DataSplits, RecordSource, Source
from aetheria.errors import AetheriaError

EVAL_FRACTION = 0.2  # of a dataset that comes without an evaluation split
_SPLIT_SEED, _SPLIT_EPOCH = 0, 2**32  # an epoch that no run reaches
_MAX_STACKED_BYTES = 256 << 20
_ADVICE = "return DataSplits(train=…, eval=…)"


def name_parts(returned: Any, name: str) -> dict[str, Source]:
    """Makes sources of what the dataset `name` returned.

    Taken: `DataSplits`, a dict with the keys `train` and `eval`, or a pair of two datasets, each
    split in one of the forms of `as_source`; or one dataset in such a form.

    Returns:
        The sources of `train split` and `eval split`, or the one of `data`.

    Raises:
        AetheriaError: the form is none of these, or the data cannot be read as columns.
    """
    if isinstance(returned, DataSplits):
        pair = (returned.train, returned.eval)
    elif isinstance(returned, Mapping) and "train" in returned:
        if returned.keys() != {"train", "eval"}:
            raise AetheriaError(
                f"data_name: expected the splits 'train' and 'eval' of {name!r}, got "
                f"{', '.join(map(str, returned))}; {_ADVICE}"
            )
        pair = (returned["train"], returned["eval"])
    elif isinstance(returned, tuple) and len(returned) == 2 and _are_datasets(*returned):
        pair = returned
    else:
        return {"data": as_source(returned, "data", name)}
    train, held_out = pair
    sources = {"train split": as_source(train, "train split", name)}
    same = held_out is train  # read and checked once
    sources["eval split"] = (
        sources["train split"] if same else as_source(held_out, "eval split", name)
    )
    return sources


def as_source(data: Any, where: str, name: str) -> Source:
    """Makes a source of one set of examples.

    Taken: a `Source`; a mapping of columns, or a table (pandas, polars) with named columns; a pair
    `(inputs, labels)`; a sequence of mappings, one an example.

    Args:
        data: the examples.
        where: how messages call them, such as `train split`.
        name: of the dataset.

    Raises:
        AetheriaError: the form is none of these, or the data cannot be read as columns.
    """
    if isinstance(data, type):
        raise _not_taken(data, where, name)
    if callable(getattr(data, "read", None)) and hasattr(data, "__len__"):
        return data
    try:
        if _is_table(data):
            return ArraySource({column: _cells(data[column]) for column in data.columns})
        if isinstance(data, Mapping):
            return ArraySource(data)
        if isinstance(data, tuple) and len(data) == 2:
            return ArraySource({"inputs": data[0], "labels": data[1]})
        if _is_sequence(data):
            return _records(data)
    except AetheriaError as error:
        raise AetheriaError(*(f"{where}, {problem}" for problem in error.problems)) from error
    raise _not_taken(data, where, name)


def _not_taken(data: Any, where: str, name: str) -> AetheriaError:
    return AetheriaError(
        f"data_name: expected a function that returns DataSplits, got {name!r}, which returns "
        f"{'' if where == 'data' else f'as the {where} '}{_describe(data)}; {_ADVICE}, each split "
        "a dict of arrays, a pair (inputs, labels), a list of dicts, or a source"
    )


def hold_out(source: Source, eval_fraction: float) -> DataSplits:
    """Splits once and for all: which examples are held out depends on no config seed.

    Raises:
        AetheriaError: there are too few examples for two splits.
    """
    size = len(source)
    if size < 2:
        raise AetheriaError(
            f"data: expected at least 2 examples, one to train on and one held out, got {size}; "
            f"{_ADVICE}"
        )
    num_eval = min(max(1, round(size * eval_fraction)), size - 1)
    order = epoch_order(_SPLIT_SEED, _SPLIT_EPOCH, size)
    return DataSplits(train=_take(source, order[num_eval:]), eval=_take(source, order[:num_eval]))


class SubsetSource:
    """Some examples of another source, in a given order.

    Args:
        source: all examples.
        chosen: the places of those to have, i64 [num_examples].
    """

    def __init__(self, source: Source, chosen: np.ndarray):
        self._source, self._chosen = source, chosen
        self.in_memory = getattr(source, "in_memory", False)

    def __len__(self) -> int:
        return len(self._chosen)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        return self._source.read(self._chosen[indices])


def _take(source: Source, chosen: np.ndarray) -> Source:
    if type(source) is ArraySource:
        return ArraySource(source.read(chosen))
    return SubsetSource(source, chosen)


def _records(data: Any) -> Source:
    source = RecordSource(data)
    if not source.is_list:
        return source
    row = sum(column.nbytes for column in source.read(np.zeros(1, np.int64)).values())
    if row * len(source) > _MAX_STACKED_BYTES:
        return source
    return ArraySource(source.read(np.arange(len(source))))


def _are_datasets(first: Any, second: Any) -> bool:
    """Whether a pair is (train, eval), not (inputs, labels)."""
    if _is_table(first) and _is_table(second):
        return [*first.columns] == [*second.columns]
    return _is_dataset(first) and _is_dataset(second)


def _is_dataset(value: Any) -> bool:
    if hasattr(value, "read") or isinstance(value, Mapping):
        return True
    if isinstance(value, tuple):
        return len(value) == 2 and all(_has_rows(part) for part in value)
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _has_rows(value: Any) -> bool:
    return bool(value) if isinstance(value, list) else len(getattr(value, "shape", ())) > 0


def _is_table(value: Any) -> bool:
    """Whether it is a data frame, of whatever library: told by what it can do."""
    return (
        hasattr(value, "columns") and hasattr(value, "to_numpy") and hasattr(value, "__getitem__")
    )


def _cells(column: Any) -> Any:
    """A table's column as an array; cells that hold arrays are stacked."""
    values = column.to_numpy()
    if values.dtype == object and len(values) and np.ndim(values[0]):
        return [*values]
    return values


def _is_sequence(value: Any) -> bool:
    """Whether it is a sequence of records: one that has a length, and a mapping in front."""
    if isinstance(value, str | bytes | np.ndarray) or not hasattr(value, "__getitem__"):
        return False
    if not hasattr(value, "__len__"):
        return False
    return not len(value) or isinstance(value[0], Mapping)


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} of shape {[*shape]}"
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(part).__name__ for part in value[:4])
        return f"{type(value).__name__} ({kinds}{', …' if len(value) > 4 else ''})"
    return type(value).__name__
