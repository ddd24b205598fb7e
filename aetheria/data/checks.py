"""The checks of a dataset before anything compiles: on all of its arrays, or on a sample.

An error is one line that names the column, the row and the value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from aetheria.data.checked_source import CheckedSource, check_columns, convert_classes
from aetheria.data.columns import shape_text
from aetheria.data.error_context import located
from aetheria.data.forms import EVAL_FRACTION, hold_out, name_parts, split_text
from aetheria.data.sources import ArraySource, Columns, DataSplits, RecordSource, Source
from aetheria.errors import AetheriaError
from aetheria.model.classes import Classes

_NUM_SAMPLED = 16
_MAX_SAMPLED_BYTES = 256 << 20  # a list of records up to this size is checked completely
_BLOCK_BYTES = 4 << 20


class CheckedData(NamedTuple):
    """A dataset that passed the checks.

    Attributes:
        splits: sources whose reads are checked.
        notes: lines to show to the user before the run.
    """

    splits: DataSplits
    notes: list[str]


def check_data(returned: object, name: str | None, classes: Mapping[str, Classes]) -> CheckedData:
    """Makes splits of what a dataset's function returned, and checks them.

    A dataset without an evaluation split is split here, by a fixed seed.

    Args:
        returned: a form of data that `aetheria.data.forms.name_parts` accepts.
        name: the name of the dataset; None: a program gave it as an object.
        classes: the model's declarations of columns of class numbers or tokens, by column name.

    Raises:
        AetheriaError: the data cannot be read as columns, the splits differ in columns, shapes
            or dtypes, or a value in a declared column is not a class number.
    """
    _check_classes(classes)
    if isinstance(returned, DataSplits) and returned.encoding is not None:
        from aetheria.data.encoding import check_class_names

        check_class_names(returned.encoding, classes)
    parts = name_parts(returned, name)
    checked: dict[str, Source] = {}
    notes: list[str] = []
    for split, source in parts.items():
        if split != "train" and source is parts.get("train"):
            checked[split] = checked["train"]
            continue
        checked[split], found = check_source(split_text(split), source, classes)
        notes += found
    if "data" in checked:
        splits = hold_out(checked["data"], EVAL_FRACTION)
        num_eval = len(splits.evals["eval"])
        notes.append(
            f"data: {'it' if name is None else repr(name)} has no evaluation split: "
            f"{num_eval} of its {len(checked['data'])} examples are held out, the same "
            "ones in every run"
        )
        return CheckedData(splits, notes)
    train, test = checked.pop("train"), checked.pop("test", None)
    named = {split.removeprefix("eval/"): source for split, source in checked.items()}
    splits = DataSplits(train, checked.get("eval", named), test=test)
    if isinstance(returned, DataSplits):
        splits = replace(splits, encoding=returned.encoding, augment=returned.augment)
    _check_agreement(splits)
    return CheckedData(splits, notes)


def check_source(
    where: str, source: Source, classes: Mapping[str, Classes]
) -> tuple[Source, list[str]]:
    """Checks an `ArraySource` completely, and a sample of any other source.

    Returns:
        A source whose declared columns are class numbers and whose reads are checked; and lines
        that say where floats are not finite.

    Raises:
        AetheriaError: as for `check_data`.
    """
    _check_length(where, source)
    if type(source) is ArraySource:
        check_columns(where, source.columns, classes)
        with located(where):
            columns = convert_classes(source.columns, classes, None)
        changed = any(columns[name] is not column for name, column in source.columns.items())
        checked: Source = ArraySource(columns) if changed else source
    else:
        checked = CheckedSource(where, source, classes)
    return checked, _find_nonfinite(where, checked, sample_rows(source))


def sample_rows(source: Source) -> np.ndarray:
    """The indices of the examples that are checked before a run, i64 [num_checked].

    These are all examples of an `ArraySource`, or of a list of records of at most 256 MB; of any
    other source 16 evenly spaced ones, the first and the last among them.
    """
    size, is_whole = len(source), isinstance(source, ArraySource)
    if isinstance(source, RecordSource) and source.is_list:
        is_whole = size * _row_bytes(source) <= _MAX_SAMPLED_BYTES
    if is_whole or size <= _NUM_SAMPLED:
        return np.arange(size)
    return np.linspace(0, size - 1, _NUM_SAMPLED).astype(np.int64)


def _check_classes(classes: object) -> None:
    is_valid = isinstance(classes, Mapping) and all(
        isinstance(each, Classes) and isinstance(each.count, int) and each.count > 0
        for each in classes.values()
    )
    if not is_valid:
        raise AetheriaError(
            "class_columns: expected column names and their aetheria.Classes, got "
            f"{str(classes)[:80]}; return {{'labels': Classes(10)}}, with at least one class"
        )


def _check_length(where: str, source: Source) -> None:
    try:
        size = len(source)
    except (TypeError, ValueError, OverflowError) as error:
        raise AetheriaError(
            f"{where}: expected a source with a length, got {type(source).__name__} ({error}); "
            "give it __len__, the number of examples"
        ) from error
    if not size:
        raise AetheriaError(
            f"{where}: expected examples, got none; check where they lie and what is left out"
        )


def _check_agreement(splits: DataSplits) -> None:
    """Raises AetheriaError if the splits differ in columns, shapes or dtypes: all use one compiled
    program.
    """
    first = np.zeros(1, np.int64)
    train = splits.train.read(first)
    for split, source in {**splits.evals, **splits.tests}.items():
        _check_like(train, split_text(split), source.read(first))


def _check_like(train: Columns, where: str, held_out: Columns) -> None:
    if train.keys() != held_out.keys():
        raise AetheriaError(
            f"{where}: expected the columns of the train split ({', '.join(train)}), got "
            f"{', '.join(held_out)}; give both splits the same columns"
        )
    for name, column in train.items():
        of_train, of_eval = (
            f"{c.dtype} rows of shape {shape_text(c.shape[1:])}" for c in (column, held_out[name])
        )
        if of_train != of_eval:
            raise AetheriaError(
                f"{where}, column {name!r}: expected {of_train} as in the train split, got "
                f"{of_eval} in row 0; prepare both splits alike"
            )


def _find_nonfinite(where: str, source: Source, rows: np.ndarray) -> list[str]:
    """Reads rows, which checks them, and returns lines that say where floats are not finite.

    A float that is not finite is no error: the config key `on_nonfinite` decides what happens to
    such examples, and a model may mask them.
    """
    found: dict[str, tuple[int, int, float]] = {}
    for block in _blocks(rows, _row_bytes(source)):
        for name, column in source.read(block).items():
            if column.dtype.kind != "f":
                continue
            finite = np.isfinite(column)
            if finite.all():
                continue
            place = np.unravel_index(int(np.argmin(finite)), finite.shape)
            count, row, value = found.get(name, (0, int(block[place[0]]), float(column[place])))
            found[name] = (count + int(finite.size - finite.sum()), row, value)
    among = "" if len(rows) == len(source) else f" in a sample of {len(rows)} rows"
    return [
        f"{where}, column {name!r}: {count} values are not finite{among}, the first is {value} in "
        f"row {row}; on_nonfinite decides what happens to such examples"
        for name, (count, row, value) in found.items()
    ]


def _row_bytes(source: Source) -> int:
    return sum(column.nbytes for column in source.read(np.zeros(1, np.int64)).values())


def _blocks(rows: np.ndarray, row_bytes: int) -> Iterator[np.ndarray]:
    size = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
