"""The forms in which a dataset's function may return its data, and the sources made of them.

Only forms with one obvious meaning are accepted; any other is refused in one line.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeGuard

import numpy as np

from aetheria.data.feed import epoch_order
from aetheria.data.sources import (
    ArraySource,
    Columns,
    DataSplits,
    Record,
    RecordSource,
    Source,
    buckets_of,
    identify,
    is_parallel,
)
from aetheria.errors import AetheriaError

EVAL_FRACTION = 0.2  # held out of a dataset that has no evaluation split
_SPLIT_SEED, _SPLIT_EPOCH = 0, 2**32  # no run reaches that epoch, so no training order equals this
_MAX_STACKED_BYTES = 256 << 20
_SPLITS = "DataSplits(train=…, eval=…)"
HELD_OUT = ("eval", "validation", "valid", "val", "dev", "test")  # what people call that split
_SPLIT_NAME = re.compile(r"[\w.-]+")


class _TableColumn(Protocol):
    def to_numpy(self) -> np.ndarray: ...


class _Table(Protocol):
    """A data frame of any library, such as pandas or polars."""

    @property
    def columns(self) -> Iterable[str]: ...

    def to_numpy(self) -> np.ndarray: ...

    def __getitem__(self, name: str, /) -> _TableColumn: ...


def name_parts(returned: object, name: str | None) -> dict[str, Source]:
    """Makes sources of what a dataset's function returned, or of what a program gave as data.

    Args:
        returned: `DataSplits`, a dict with the keys `train` and `eval`, or a pair of two datasets,
            each split in one of the forms that `as_source` accepts; or one dataset in such a form.
            `eval` may be several by name. `validation`, `val` and `test` are accepted for `eval`;
            beside one of the others, `test` is the test split.
        name: the name of the dataset; None: a program gave it as an object.

    Returns:
        The sources by the names of their splits: `train`, then `eval` or `eval/<name>` of each of
        several, and `test` if there is one; or only `data`.

    Raises:
        AetheriaError: the form is not one of these, or the data cannot be read as columns.
    """
    test: object = None
    if isinstance(returned, DataSplits):
        train, held_out, test = returned.train, returned.eval, returned.test
    elif isinstance(returned, Mapping) and "train" in returned:
        key = _held_out(returned, name)
        train, held_out = returned["train"], returned[key]
        test = returned.get("test") if key != "test" else None
    elif isinstance(returned, tuple) and len(returned) == 2 and _are_datasets(*returned):
        train, held_out = returned
    else:
        return {"data": as_source(returned, "data", name)}
    given = {"train": train, **_evaluation_splits(held_out, train)}
    if test is not None:
        given["test"] = test
    sources: dict[str, Source] = {}
    for split, data in given.items():
        if data is train and sources:  # the same data is read and checked once
            sources[split] = sources["train"]
        else:
            sources[split] = as_source(data, split_text(split), name)
    return sources


def split_text(split: str) -> str:
    """What messages call a split.

    >>> [split_text(name) for name in ("train", "eval/ood", "data")]
    ['train split', "eval split 'ood'", 'data']
    """
    if split == "data":
        return split
    kind, _, name = split.partition("/")
    return f"{kind} split {name!r}" if name else f"{kind} split"


def _evaluation_splits(held_out: object, train: object) -> dict[str, object]:
    """The evaluation splits by their names, `eval` if there is one.

    A mapping may be one of columns as well: it is one of splits if each of its values is a dataset
    and the training split has no columns of these names.
    """
    if (
        not isinstance(held_out, Mapping)
        or not held_out
        or not all(map(_is_set, held_out.values()))
    ):
        return {"eval": held_out}
    if isinstance(train, Mapping) and train.keys() == held_out.keys():
        return {"eval": held_out}
    for name in held_out:
        if not isinstance(name, str) or not _SPLIT_NAME.fullmatch(name):
            raise AetheriaError(
                f"eval split: expected a name of letters, digits, '_', '.' and '-', got {name!r}; "
                "rename it"
            )
    if len(held_out) == 1:
        return {"eval": next(iter(held_out.values()))}
    return {f"eval/{name}": data for name, data in held_out.items()}


def _is_set(value: Any) -> bool:
    """Whether a value is a set of examples, and not a column."""
    return is_table(value) or _is_dataset(value) or is_sequence_of(value, Mapping)


def _held_out(splits: Mapping[str, object], name: str | None) -> str:
    """The name of the evaluation split."""
    others = [key for key in splits if key not in ("train", "test")] or [*splits.keys() - {"train"}]
    if len(others) == 1 and others[0] in HELD_OUT:
        return others[0]
    of = "data: expected the splits 'train' and 'eval'"
    if name is not None:
        of = f"data_name: expected the splits 'train' and 'eval' of {name!r}"
    raise AetheriaError(f"{of}, got {', '.join(map(str, splits))}; {_advice(name)}")


def as_source(data: object, where: str, name: str | None) -> Source:
    """Makes a source of one set of examples.

    Args:
        data: a `Source`; a mapping of columns; a table with named columns (pandas, polars); a pair
            `(inputs, labels)`; or a sequence of mappings, one for each example, such as a dataset
            of Hugging Face; or one of such pairs that is no list, such as a dataset of PyTorch.
        where: the name of the data in messages, such as `train split`.
        name: the name of the dataset; None: a program gave it as an object.

    Raises:
        AetheriaError: the form is not one of these, or the data cannot be read as columns.
    """
    if isinstance(data, type):
        raise _unknown_form(data, where, name)
    if is_source(data):
        return data
    try:
        if is_table(data):
            return ArraySource({column: _cells(data[column]) for column in data.columns})
        if isinstance(data, Mapping):
            return ArraySource(data)
        if isinstance(data, tuple) and len(data) == 2:
            return ArraySource({"inputs": data[0], "labels": data[1]})
        if is_sequence_of(data, Mapping):
            return _records(data)
        # Not a list of pairs, which may as well be two datasets.
        if not isinstance(data, list | tuple) and is_sequence_of(data, tuple):
            return _records(_Pairs(data))
    except AetheriaError as error:
        raise AetheriaError(*(f"{where}, {problem}" for problem in error.problems)) from error
    raise _unknown_form(data, where, name)


class _Pairs(Sequence[Record]):
    """Pairs (inputs, labels) as records, such as those of a map-style dataset of PyTorch."""

    def __init__(self, pairs: Sequence[Sequence[object]]):
        self._pairs = pairs
        self.parallel = getattr(pairs, "parallel", False)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        pair = self._pairs[index]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise AetheriaError(
                f"row {index}: expected a pair (inputs, labels), got {_describe(pair)}; give every "
                "example both"
            )
        return {"inputs": pair[0], "labels": pair[1]}


def _advice(name: str | None) -> str:
    return f"{'give' if name is None else 'return'} {_SPLITS}"


def _unknown_form(data: object, where: str, name: str | None) -> AetheriaError:
    forms = "a dict of arrays, a pair (inputs, labels), a list of dicts, or a source"
    if name is None:
        what = "data" if where == "data" else f"data, {where}"
        return AetheriaError(
            f"{what}: expected a table, {forms}, got {_describe(data)}; {_advice(name)}, or one "
            "of these forms"
        )
    return AetheriaError(
        f"data_name: expected a function that returns DataSplits, got {name!r}, which returns "
        f"{'' if where == 'data' else f'as the {where} '}{_describe(data)}; {_advice(name)}, each "
        f"split {forms}"
    )


def hold_out(source: Source, eval_fraction: float) -> DataSplits:
    """Splits a dataset by a fixed seed, so that every run holds out the same examples.

    Args:
        source: all examples.
        eval_fraction: the fraction that is held out for evaluation; each split has at least one.

    Raises:
        AetheriaError: there are fewer than two examples.
    """
    train, held_out = split_rows(len(source), eval_fraction)
    return DataSplits(train=_take(source, train), eval=_take(source, held_out))


def split_rows(size: int, eval_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and those that are held out, by a fixed seed; see `hold_out`."""
    if size < 2:
        raise AetheriaError(
            f"data: expected at least 2 examples, one to train on and one held out, got {size}; "
            f"return {_SPLITS}"
        )
    num_eval = min(max(1, round(size * eval_fraction)), size - 1)
    order = epoch_order(_SPLIT_SEED, _SPLIT_EPOCH, size)
    return order[num_eval:], order[:num_eval]


def first_examples(splits: DataSplits, count: int) -> DataSplits:
    """The first examples of the training split, `count` at most, to train and evaluate on, as they
    are: a model cannot learn by heart what changes.
    """
    few = _take(splits.train, np.arange(min(count, len(splits.train))))
    return replace(splits, train=few, eval=few, test=None, augment=None)


class SubsetSource:
    """Some examples of another source, in a given order.

    Args:
        source: all examples.
        chosen: i64 [num_examples], the indices in `source` of the examples of the subset.
    """

    def __init__(self, source: Source, chosen: np.ndarray):
        self._source, self._chosen = source, chosen
        self.in_memory = getattr(source, "in_memory", False)
        self.parallel = is_parallel(source)
        self.buckets = buckets_of(source)
        if self.buckets is not None:
            self.buckets = replace(self.buckets, lengths=self.buckets.lengths[chosen])

    def __len__(self) -> int:
        return len(self._chosen)

    def read(self, indices: np.ndarray) -> Columns:
        return self._source.read(self._chosen[indices])

    def identify(self, indices: np.ndarray) -> bytes | None:
        return identify(self._source, self._chosen[indices])


def _take(source: Source, chosen: np.ndarray) -> Source:
    if type(source) is ArraySource:
        return ArraySource(source.read(chosen))
    return SubsetSource(source, chosen)


def _records(data: Sequence[Record]) -> Source:
    """A list of records becomes columns in memory, unless these would be large."""
    source = RecordSource(data)
    if not source.is_list:
        return source
    row = sum(column.nbytes for column in source.read(np.zeros(1, np.int64)).values())
    if row * len(source) > _MAX_STACKED_BYTES:
        return source
    return ArraySource(source.read(np.arange(len(source))))


def _are_datasets(first: object, second: object) -> bool:
    """Whether a pair is (train, eval), not (inputs, labels)."""
    if is_table(first) and is_table(second):
        return [*first.columns] == [*second.columns]
    return _is_dataset(first) and _is_dataset(second)


def _is_dataset(value: object) -> bool:
    if hasattr(value, "read") or isinstance(value, Mapping):
        return True
    if isinstance(value, tuple):
        return len(value) == 2 and all(_has_rows(part) for part in value)
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _has_rows(value: object) -> bool:
    return bool(value) if isinstance(value, list) else len(getattr(value, "shape", ())) > 0


def is_source(value: object) -> TypeGuard[Source]:
    """Whether it has what the contract of a source asks for."""
    return callable(getattr(value, "read", None)) and hasattr(value, "__len__")


def is_table(value: object) -> TypeGuard[_Table]:
    """Whether it is a data frame. Its attributes decide: no such library is imported here."""
    return (
        hasattr(value, "columns") and hasattr(value, "to_numpy") and hasattr(value, "__getitem__")
    )


def _cells(column: _TableColumn) -> np.ndarray | list[np.ndarray]:
    """The values of a table's column; cells that are arrays are returned as a list of them."""
    values = column.to_numpy()
    if values.dtype == object and len(values) and np.ndim(values[0]):
        return [*values]
    return values


def is_sequence_of(value: Any, kind: Any) -> TypeGuard[Sequence[Any]]:
    """Whether it has a length and an index, and its first item is of a kind; if empty, of any."""
    if isinstance(value, str | bytes | np.ndarray) or not hasattr(value, "__getitem__"):
        return False
    if not hasattr(value, "__len__"):
        return False
    return not len(value) or isinstance(value[0], kind)


def _describe(value: object) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} of shape {[*shape]}"
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(part).__name__ for part in value[:4])
        return f"{type(value).__name__} ({kinds}{', …' if len(value) > 4 else ''})"
    return type(value).__name__
