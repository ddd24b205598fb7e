"""Tables in files: CSV and Parquet, with numbers, texts, class names, weights and missing cells."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.data.encoding import (
    Cells,
    TableEncoding,
    as_cells,
    as_number,
    as_numbers,
    as_text,
    class_order,
    is_missing,
    learn_column,
)
from aetheria.data.error_context import located, needs_package
from aetheria.data.file_splits import read_each
from aetheria.data.forms import EVAL_FRACTION, split_rows
from aetheria.data.sources import ArraySource, DataSplits, Source
from aetheria.errors import AetheriaError, shown
from aetheria.plugins import register_data

_ADVICE = "see the columns of the file"


@register_data("csv")
@register_data("parquet")
def read_table(
    file: Any,
    *,
    label: str,
    weight: str | None = None,
    features: Sequence[str] | None = None,
    eval_file: Any = None,
    eval_fraction: float = EVAL_FRACTION,
    classes: bool | None = None,
    test_file: Any = None,
) -> DataSplits:
    """A table: numbers are standardized, texts become one-hot, and the label a class number or a
    number to predict.

    What is learned from the table (means, texts, class names) is taken from the training split
    alone, and is part of every snapshot: a `Predictor` takes rows as they lie in the file.

    Args:
        file: a `.csv` or `.parquet` file, relative to the current folder; from Python also a data
            frame or a dict of columns.
        label: the column to predict.
        weight: the column with the weight of each example in the loss and the metrics.
        features: the columns to predict from; None: all others.
        eval_file: as `file`, to evaluate on, or several by name, such as `{val: a.csv, ood:
            b.csv}`; None: `eval_fraction` of the rows is held out, the same ones in every run.
        eval_fraction: see `eval_file`.
        classes: whether the label is a class; None: it is, unless it consists of numbers.
        test_file: as `file`, to evaluate once, when the run completes.

    Raises:
        AetheriaError: the file cannot be read as a table, lacks a column, or has a cell that is no
            number where one is needed; row and column are named.
    """
    cells = _read(file, "file")
    given = [name for name in (label, weight, *(features or ())) if name is not None]
    _require(cells, given, "file")
    if not 0 < eval_fraction < 1:
        raise AetheriaError(
            f"data_params.eval_fraction: expected a number between 0 and 1, got {eval_fraction}; "
            "use 0.2"
        )
    names = [n for n in cells if n not in (label, weight)] if features is None else [*features]
    if not names:
        raise AetheriaError(f"data_params.features: expected columns beside {label!r}, got none")
    size = len(cells[label])
    rows = [np.arange(size)] if eval_file is not None else [*split_rows(size, eval_fraction)]
    learned_from = rows[0].tolist()
    encoding = TableEncoding(
        columns=tuple(learn_column(n, [cells[n][row] for row in learned_from]) for n in names),
        label=label,
        classes=_class_names(cells[label], classes),
    )
    # The whole file, so that an error names its row.
    whole = encode_columns(cells, encoding, weight)
    parts = [ArraySource({n: c[chosen] for n, c in whole.items()}) for chosen in rows]

    def encode(other: Any, where: str) -> Source:
        cells = _read(other, where)
        _require(cells, given, where)
        with located(where):
            return ArraySource(encode_columns(cells, encoding, weight))

    return DataSplits(
        train=parts[0],
        eval=parts[-1] if eval_file is None else read_each(eval_file, "eval_file", encode),
        encoding=encoding,
        test=None if test_file is None else encode(test_file, "test_file"),
    )


def encode_columns(
    cells: Cells, encoding: TableEncoding, weight: str | None
) -> dict[str, np.ndarray]:
    """Makes the columns that a model is trained and evaluated on.

    Args:
        cells: the features, the label, and the weight if there is one.
        encoding: how they become numbers.
        weight: the column with the weight of each example; None: there is none.

    Raises:
        AetheriaError: a cell is no number or no class; column and row are named.
    """
    columns = {"inputs": encoding.encode(cells), "labels": _labels(cells, encoding)}
    if weight is not None:
        columns["weight"] = _numbers(cells, weight, "a weight of 0 or more", least=0.0)
    return columns


def _labels(cells: Cells, encoding: TableEncoding) -> np.ndarray:
    if not encoding.classes:
        return _numbers(cells, encoding.label, "a number to predict")
    numbers = {name: number for number, name in enumerate(encoding.classes)}
    labels = np.zeros(len(cells[encoding.label]), np.int32)
    for row, cell in enumerate(cells[encoding.label]):
        if (number := numbers.get(as_text(cell))) is None:
            got = "nothing" if is_missing(cell) else shown(cell)
            raise AetheriaError(
                f"column {encoding.label!r}: expected one of the classes "
                f"{', '.join(encoding.classes)}, got {got} in row {row}; correct it"
            )
        labels[row] = number
    return labels


def _class_names(cells: Sequence[Any], classes: bool | None) -> tuple[str, ...]:
    if classes is None:
        classes = as_numbers(cells) is None
    names = sorted({as_text(cell) for cell in cells if not is_missing(cell)}, key=class_order)
    return tuple(names) if classes else ()


def _numbers(cells: Cells, name: str, what: str, *, least: float = -math.inf) -> np.ndarray:
    numbers = np.zeros(len(cells[name]))
    for row, cell in enumerate(cells[name]):
        number = float(cell) if isinstance(cell, bool) else as_number(cell)
        if number is None or number < least:
            got = "nothing" if is_missing(cell) else shown(cell)
            raise AetheriaError(
                f"column {name!r}: expected {what}, got {got} in row {row}; correct it or leave "
                "the row out"
            )
        numbers[row] = number
    return numbers


def _require(cells: Cells, names: Sequence[str], where: str) -> None:
    for name in names:
        if name not in cells:
            raise AetheriaError(
                f"data_params: expected a column {name!r} in {where}, got {', '.join(cells)}; "
                f"{_ADVICE}"
            )


def _read(file: Any, where: str) -> Cells:
    if not isinstance(file, str | Path):
        cells = as_cells(file)
        if cells is None or not cells:
            raise AetheriaError(
                f"data_params.{where}: expected a file, a data frame or a dict of columns, got "
                f"{shown(file)}; give one"
            )
        return cells
    return read_cells(Path(file).expanduser(), f"data_params.{where}")


def read_cells(path: Path, where: str) -> Cells:
    """Reads a whole table.

    Args:
        path: a `.csv` or `.parquet` file.
        where: what messages call a file of another ending.

    Raises:
        AetheriaError: it cannot be read as a table, or has no row.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise AetheriaError(
            f"{where}: expected a .csv or .parquet file, got {shown(str(path))}; convert it"
        )
    cells = readers[path.suffix.lower()](path)
    if not all(len(column) for column in cells.values()) or not cells:
        raise AetheriaError(f"{path}: expected rows under a line of column names, got none")
    return cells


def _read_csv(path: Path) -> Cells:
    with path.open(newline="", encoding="utf-8-sig") as lines:
        try:
            rows = [row for row in csv.reader(lines) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise AetheriaError(
                f"{path}: expected CSV in UTF-8, got {error}; convert it"
            ) from error
    if not rows:
        return {}
    names = [name.strip() for name in rows[0]]
    if len({*names}) < len(names) or not all(names):
        raise AetheriaError(
            f"{path}: expected a first line of different column names, got {', '.join(names)}; "
            "name every column"
        )
    for number, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise AetheriaError(
                f"{path}, row {number}: expected {len(names)} cells, as there are column names, "
                f"got {len(row)}; correct it"
            )
    return {name: [row[place].strip() for row in rows[1:]] for place, name in enumerate(names)}


def _read_parquet(path: Path) -> Cells:
    with needs_package(str(path), "pyarrow", "to read it"):
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    try:
        return parquet.read_table(path).to_pydict()
    except ArrowException as error:
        text = " ".join(str(error).split())[:200]
        raise AetheriaError(f"{path}: expected a Parquet file, got {text}; check it") from error
