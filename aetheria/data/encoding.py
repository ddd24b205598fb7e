"""How the columns of a table become the numbers that a model sees, and its class numbers names.

What is learned from the training split (means, categories, classes) is part of every snapshot, so
that a prediction is made of rows as they lie in a file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aetheria.config.json_types import JsonObject
from aetheria.errors import AetheriaError, SnapshotError, shown
from aetheria.model.classes import Classes

# Column name -> its cells: text, numbers, or None where one is missing.
Cells = Mapping[str, Sequence[Any]]
MAX_CATEGORIES = 200


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, standardized; a missing one becomes the mean.

    Attributes:
        name: of the column.
        mean: of the training split.
        std: of the training split; 1 where all numbers are equal.
    """

    name: str
    mean: float
    std: float

    def encode(self, cells: Sequence[Any], first_row: int = 0) -> np.ndarray:
        """Returns f32 [num_rows, 1].

        Raises:
            AetheriaError: a cell is no number.
        """
        numbered = enumerate(cells, first_row)
        numbers = np.array([_number(self.name, row, cell) for row, cell in numbered])
        scaled = (np.where(np.isnan(numbers), self.mean, numbers) - self.mean) / self.std
        return scaled.astype(np.float32)[:, None]


@dataclass(frozen=True)
class CategoryColumn:
    """A column of text, one-hot; a text that the training split did not have is all zeros.

    Attributes:
        name: of the column.
        categories: the texts, sorted.
    """

    name: str
    categories: tuple[str, ...]

    def encode(self, cells: Sequence[Any], first_row: int = 0) -> np.ndarray:
        """Returns f32 [num_rows, num_categories]."""
        places = {category: place for place, category in enumerate(self.categories)}
        encoded = np.zeros((len(cells), len(places)), np.float32)
        for row, cell in enumerate(cells):
            if (place := places.get(as_text(cell))) is not None:
                encoded[row, place] = 1.0
        return encoded


class Encoding(Protocol):
    """How data as users have it became `inputs` and `labels`; a part of every snapshot."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class number; empty: the labels are numbers."""
        ...

    def encode_inputs(self, given: Any) -> Any:
        """Makes what the model sees; what has no form of such data is returned as it is."""
        ...

    def to_json(self) -> JsonObject:
        """JSON values, as a snapshot holds them."""
        ...


def read_encoding(said: object, where: str) -> Encoding:
    """Makes an encoding of what a snapshot says.

    Raises:
        SnapshotError: it says nothing that is known.
    """
    if isinstance(said, Mapping) and "image_size" in said:
        from aetheria.data.pictures import PictureEncoding

        return PictureEncoding.from_json(said, where)
    return TableEncoding.from_json(said, where)


def check_class_names(encoding: Encoding, classes: Mapping[str, Classes]) -> None:
    """Raises AetheriaError if the data names more classes than the model declares in `labels`."""
    names, declared = encoding.classes, classes.get("labels")
    if declared is not None and len(names) > declared.count:
        raise AetheriaError(
            f"model_params: expected a model of at least {len(names)} classes, as the data has "
            f"({', '.join(names)[:100]}), got {declared.count}; set its num_classes to {len(names)}"
        )


@dataclass(frozen=True, kw_only=True)
class TableEncoding:
    """What a training split says of a table.

    Attributes:
        columns: the features, in the order in which they stand in `inputs`; none: the inputs were
            given as they are, and only the classes have names.
        label: the column to predict.
        classes: the name of each class number; empty: the label is a number.
    """

    columns: tuple[NumberColumn | CategoryColumn, ...]
    label: str
    classes: tuple[str, ...] = ()

    def encode(self, cells: Cells, first_row: int = 0) -> np.ndarray:
        """Makes what the model sees of rows.

        Args:
            cells: the features, and any other columns, which are left alone.
            first_row: the number of the first of these rows, for messages.

        Returns:
            f32 [num_rows, width].

        Raises:
            AetheriaError: a column is missing, or a cell of a column of numbers is no number.
        """
        for column in self.columns:
            if column.name not in cells:
                known = ", ".join(map(str, cells))
                raise AetheriaError(
                    f"inputs: expected a column {column.name!r}, as in training, got {known}; give "
                    "every column that the model was trained on"
                )
        parts = [column.encode(cells[column.name], first_row) for column in self.columns]
        return np.concatenate(parts, axis=1)

    def encode_inputs(self, given: Any) -> Any:
        """`encode` for rows in a form that `as_cells` reads; anything else is returned as it is."""
        cells = as_cells(given) if self.columns else None
        return given if cells is None else self.encode(cells)

    def to_json(self) -> JsonObject:
        """JSON values, as a snapshot holds them."""
        columns: list[Any] = []
        for column in self.columns:
            if isinstance(column, NumberColumn):
                columns.append({"name": column.name, "mean": column.mean, "std": column.std})
            else:
                columns.append({"name": column.name, "categories": [*column.categories]})
        return {"columns": columns, "label": self.label, "classes": [*self.classes]}

    @classmethod
    def from_json(cls, said: object, where: str) -> "TableEncoding":
        """The inverse of `to_json`.

        Raises:
            SnapshotError: it is something else.
        """
        try:
            match said:
                case {"columns": [*columns], "label": str() as label, "classes": [*classes]}:
                    made = tuple(_column(column) for column in columns)
                    names = tuple(_text(name) for name in classes)
                    return cls(columns=made, label=label, classes=names)
        except (TypeError, ValueError, OverflowError):
            pass
        raise SnapshotError(
            f"{where}: expected an encoding of table columns, got {shown(said)}; use another file"
        )


def as_cells(rows: Any) -> Cells | None:
    """Reads rows as columns of cells: a data frame, a mapping of columns, one row or a list of rows
    as mappings; None: it is something else, such as an array.

    >>> as_cells([{"age": 3, "plan": "a"}, {"age": 4, "plan": "b"}])
    {'age': [3, 4], 'plan': ['a', 'b']}

    Raises:
        AetheriaError: the columns differ in length.
    """
    cells = _by_column(rows)
    if cells is not None and len(sizes := {len(column) for column in cells.values()}) > 1:
        raise AetheriaError(
            f"rows: expected columns of one length, got {', '.join(map(str, sorted(sizes)))}; give "
            "every row every column"
        )
    return cells


def _by_column(rows: Any) -> Cells | None:
    if hasattr(rows, "columns") and hasattr(rows, "to_numpy"):
        return {str(name): _listed(rows[name]) for name in rows.columns}
    if isinstance(rows, Mapping):
        scalars = all(
            isinstance(cell, str) or not hasattr(cell, "__len__") for cell in rows.values()
        )
        return {str(name): [cell] if scalars else _listed(cell) for name, cell in rows.items()}
    if isinstance(rows, Sequence) and rows and all(isinstance(row, Mapping) for row in rows):
        return {str(name): [row.get(name) for row in rows] for name in rows[0]}
    return None


def learn_column(name: str, cells: Sequence[Any]) -> NumberColumn | CategoryColumn:
    """Learns a feature from its cells in the training split.

    Raises:
        AetheriaError: there are too many categories, or no number at all.
    """
    if (numbers := as_numbers(cells)) is not None:
        known = numbers[~np.isnan(numbers)]
        if not known.size:
            raise AetheriaError(
                f"column {name!r}: expected cells, got only missing ones; leave it out of features"
            )
        std = float(known.std())
        return NumberColumn(name, float(known.mean()), std if std > 0 else 1.0)
    categories = sorted({as_text(cell) for cell in cells})
    if len(categories) > MAX_CATEGORIES:
        raise AetheriaError(
            f"column {name!r}: expected numbers, or at most {MAX_CATEGORIES} different texts, got "
            f"{len(categories)}, such as {shown(categories[0])}; leave it out of features"
        )
    return CategoryColumn(name, tuple(categories))


def as_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """The cells as f64 [num_rows], NaN where one is missing; None: one of them is no number. Truth
    values count as text.
    """
    numbers = np.full(len(cells), math.nan)
    for row, cell in enumerate(cells):
        if not is_missing(cell):
            if (number := as_number(cell)) is None:
                return None
            numbers[row] = number
    return numbers


def is_missing(cell: Any) -> bool:
    """Whether there is nothing in a cell; of pandas' values for that, too, which compare with
    nothing.
    """
    if isinstance(cell, str | float | np.floating):
        return cell == "" or cell != cell
    return cell is None or type(cell).__name__ in ("NAType", "NaTType")


def as_text(cell: Any) -> str:
    """A cell as a category or a class name; a missing one is the empty text."""
    return "" if is_missing(cell) else str(cell)


def class_order(name: str) -> tuple[float, str]:
    """A key to sort the names of classes by: numbers by their size, then texts.

    >>> sorted(["b", "10", "9", "nan", "a"], key=class_order)
    ['9', '10', 'a', 'b', 'nan']
    """
    number = as_number(name)
    return (math.inf if number is None else number), name


def _number(name: str, row: int, cell: Any) -> float:
    if is_missing(cell):
        return math.nan
    if (number := as_number(cell)) is None:
        raise AetheriaError(
            f"column {name!r}: expected a number, as in training, got {shown(cell)} in row {row}; "
            "correct it"
        )
    return number


def as_number(cell: Any) -> float | None:
    """A finite number; None: the cell is none, or a truth value."""
    if isinstance(cell, bool | np.bool_):
        return None
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _listed(column: Any) -> list[Any]:
    to_list = getattr(column, "tolist", None) or getattr(column, "to_list", None)
    return list(to_list()) if to_list is not None else list(column)


def _column(said: object) -> NumberColumn | CategoryColumn:
    match said:
        case {
            "name": str() as name,
            "mean": int() | float() as mean,
            "std": int() | float() as std,
        }:
            if math.isfinite(mean) and 0 < std < math.inf:
                return NumberColumn(name, float(mean), float(std))
        case {"name": str() as name, "categories": [*categories]}:
            return CategoryColumn(name, tuple(_text(each) for each in categories))
    raise ValueError("no column")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value
