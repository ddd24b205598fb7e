"""Datasets of Hugging Face, on disk or from the hub, read as they are needed (extra `data`).

Data alone is read: version 4 of the package and later run no script of a dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.data.encoding import TableEncoding
from aetheria.data.error_context import needs_package
from aetheria.data.forms import EVAL_FRACTION, HELD_OUT, hold_out
from aetheria.data.padding import Padded
from aetheria.data.sources import DataSplits, Source, near_name
from aetheria.errors import AetheriaError, shown, summary_of
from aetheria.plugins import register_data

# Column of a run -> the column of the dataset that it is made of, or several of them.
Choice = Mapping[str, "str | Sequence[str]"]


class HubSource:
    """A split of a dataset of Hugging Face; its Arrow files are memory-mapped.

    Args:
        dataset: a `datasets.Dataset`.
        choice: column name -> the column of the dataset, or several columns of numbers, which stand
            side by side in a row.
    """

    def __init__(self, dataset: Any, choice: Choice):
        names = {n for each in choice.values() for n in ([each] if isinstance(each, str) else each)}
        self._images = {n for n in names if type(dataset.features[n]).__name__ == "Image"}
        self._dataset = dataset.select_columns(sorted(names)).with_format("numpy")
        self._choice = choice

    def __len__(self) -> int:
        return len(self._dataset)

    def lengths(self, name: str) -> np.ndarray | None:
        """The lengths of the lists in a column, i64 [num_examples], which are part of the file;
        None: it has no lists.
        """
        from pyarrow import ArrowException, compute

        column = self._choice.get(name)
        if not isinstance(column, str):
            return None
        table = self._dataset.select_columns([column]).with_format("arrow")[:]
        try:
            lengths = compute.call_function("list_value_length", [table[column]])
            return lengths.to_numpy().astype(np.int64)
        except ArrowException:
            return None

    def read(self, indices: np.ndarray) -> Mapping[str, Any]:
        columns = self._dataset[indices.tolist()]
        for name in self._images:
            columns[name] = [_as_picture(each) for each in columns[name]]
        return {name: _side_by_side(columns, each) for name, each in self._choice.items()}


@register_data("hf")
def hf(
    *,
    path: str,
    name: str | None = None,
    train: str = "train",
    eval: str | dict[str, str] | None = None,
    test: str | None = None,
    inputs: str | list[str] | None = None,
    labels: str | list[str] | None = None,
    columns: dict[str, Any] | None = None,
    eval_fraction: float = EVAL_FRACTION,
    buckets: list[int] | None = None,
    padded: list[str] | None = None,
) -> DataSplits:
    """A dataset of Hugging Face.

    The class names of a label are part of every snapshot: `Predictor.classes` has them.

    Args:
        path: a folder that `save_to_disk` wrote, relative to the current folder; or else a name on
            the hub, or a folder of files that `datasets.load_dataset` reads.
        name: the configuration of the dataset, where it has several.
        train: the split to train on.
        eval: the split to evaluate on, or several by name; None: `validation` or the like, else
            `test`, else `eval_fraction` of the training split.
        test: the split to evaluate once, when the run completes; None: `test`, if there is one and
            it is not the one to evaluate on.
        inputs: the column that becomes `inputs`, or several columns of numbers, which stand side by
            side. None, and no `labels` and `columns` either: all columns keep their names.
        labels: the column that becomes `labels`.
        columns: further columns, name -> column or columns.
        eval_fraction: see `eval`.
        buckets: pad columns of lists of different lengths to one of these lengths, such as `[64,
            128]`; see `aetheria.Padded`.
        padded: the columns to pad; None: `inputs`, and `labels` where these are lists.

    Raises:
        AetheriaError: the package is missing, there is no such dataset, split or column.
    """
    dataset = _load(path, name)
    splits = dict(dataset) if isinstance(dataset, Mapping) else {train: dataset}
    _require("train", train, splits)
    held_out, test = _choose(splits, train, eval, test)
    choice = _choose_columns(splits[train], inputs, labels, columns)

    def open_split(split: str, where: str) -> Source:
        _require(where, split, splits)
        for each in choice.values():
            for column in [each] if isinstance(each, str) else each:
                _require_column(column, splits[split], f"split {split!r}")
        source = HubSource(splits[split], choice)
        if buckets is None:
            return source
        names = padded or [name for name in ("inputs", "labels") if _is_list(source, name)]
        lengths = source.lengths(names[0]) if names else None
        return Padded(source, buckets=buckets, columns=names, lengths=lengths)

    made = open_split(train, "train")
    if held_out is None:
        done = hold_out(made, eval_fraction)
    elif isinstance(held_out, str):
        done = DataSplits(made, open_split(held_out, "eval"))
    else:
        done = DataSplits(made, {n: open_split(s, f"eval.{n}") for n, s in held_out.items()})
    encoding = None
    label = choice.get("labels")
    if isinstance(label, str) and (names := getattr(splits[train].features[label], "names", None)):
        encoding = TableEncoding(columns=(), label=label, classes=tuple(names))
    tested = None if test is None else open_split(test, "test")
    return replace(done, encoding=encoding, test=tested)


def _load(path: str, name: str | None) -> Any:
    with needs_package("data_name", "datasets", "for 'hf'"):
        import datasets  # pyright: ignore[reportMissingImports]
    folder = Path(path).expanduser()
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder) if folder.is_dir() else path, name)
    # What the package raises for a damaged file, an unknown name or no network is of many types.
    except Exception as error:
        what = "an undamaged dataset" if saved else "a folder, or a dataset on the hub"
        raise AetheriaError(
            f"data_params.path: expected {what}, got {shown(path)} ({summary_of(error)}); check "
            "the path, or save the dataset with save_to_disk where there is a network"
        ) from error


def _choose(
    splits: Mapping[str, Any],
    train: str,
    held_out: str | Mapping[str, str] | None,
    test: str | None,
) -> tuple[str | Mapping[str, str] | None, str | None]:
    """The splits for evaluation and the test split, where the config does not say."""
    others = [split for split in HELD_OUT if split in splits and split not in (train, test)]
    if held_out is None and others:
        held_out = others[0]
    used = {held_out} if isinstance(held_out, str) else {*(held_out or {}).values()}
    if test is None and "test" in splits and "test" not in {train, *used}:
        test = "test"
    return held_out, test


def _choose_columns(dataset: Any, inputs: Any, labels: Any, columns: Any) -> Choice:
    given = {"inputs": inputs, "labels": labels, **(columns or {})}
    choice = {name: each for name, each in given.items() if each is not None}
    for name, each in choice.items():
        names = [each] if isinstance(each, str) else each
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or not names:
            raise AetheriaError(
                f"data_params.{name}: expected a column or a list of columns, got {shown(each)}; "
                f"the dataset has {', '.join(dataset.column_names)}"
            )
        for column in names:
            _require_column(column, dataset, f"data_params.{name}")
    return choice or {name: name for name in dataset.column_names}


def _require_column(column: str, dataset: Any, where: str) -> None:
    if column not in dataset.column_names:
        raise AetheriaError(
            f"{where}: expected a column {column!r}, got {near_name(column, dataset.column_names)}"
            "; name one of these"
        )


def _require(where: str, split: str, splits: Mapping[str, Any]) -> None:
    if split not in splits:
        raise AetheriaError(
            f"data_params.{where}: expected one of the splits {', '.join(splits)}, got "
            f"{shown(split)}; name one of these"
        )


def _is_list(source: HubSource, name: str) -> bool:
    row = source.read(np.zeros(1, np.int64)).get(name)
    return row is not None and np.ndim(row[0]) > 0


def _side_by_side(columns: Mapping[str, Any], chosen: str | Sequence[str]) -> Any:
    """One column as it is; several as the values of a row, [num_rows, width]."""
    if isinstance(chosen, str):
        column = columns[chosen]
        # A list of arrays, so that an error says which row has another length.
        is_ragged = isinstance(column, np.ndarray) and column.dtype.kind == "O"
        return [*column] if is_ragged else column
    parts = [np.asarray(columns[name]) for name in chosen]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _as_picture(image: np.ndarray) -> np.ndarray:
    """A picture f32 [height, width, channel] in [0, 1], of u8 values, with or without channels."""
    values = np.asarray(image)
    scaled = values.astype(np.float32) / 255 if values.dtype == np.uint8 else values
    return scaled if scaled.ndim == 3 else scaled[..., None]
