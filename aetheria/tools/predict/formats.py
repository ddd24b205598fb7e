"""How outputs are written: named columns of a table in CSV, JSON lines or Parquet, or one array.

A format makes bytes that are appended to a file, so that an interrupted file can be continued.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from aetheria.data.error_context import needs_package
from aetheria.errors import AetheriaError

_ROWS_PER_GROUP = 65_536


Column: TypeAlias = list[Any] | np.ndarray


class Outputs(NamedTuple):
    """What the outputs of a model mean.

    Attributes:
        classes: the name of each class number; empty: the snapshot knows none.
        num_classes: of the model; 0: it has no classes.
        probabilities: whether the outputs are class probabilities.
        keys: what names each row; None: nothing does.
    """

    classes: tuple[str, ...]
    num_classes: int
    probabilities: bool
    keys: Sequence[str] | None = None

    def columns(self, outputs: np.ndarray, first_row: int) -> dict[str, Column]:
        """Names what a table holds of a block of outputs.

        Args:
            outputs: [num_rows, ...].
            first_row: the number of the first row.

        Returns:
            Column name -> names of files or classes, class numbers, or numbers.

        Raises:
            AetheriaError: an output is no single number and no list of numbers.

        >>> of_classes = Outputs(("no", "yes"), 2, True)
        >>> of_classes.columns(np.array([[0.25, 0.75]]), 0)
        {'class': ['yes'], 'p_no': array([0.25]), 'p_yes': array([0.75])}
        >>> Outputs((), 0, False).columns(np.array([[1.5], [2.0]]), 0)
        {'prediction': array([1.5, 2. ])}
        """
        if outputs.ndim > 2:
            raise AetheriaError(
                "output: expected a .npy file, since every row has an output of shape "
                f"{list(outputs.shape[1:])}, got a table; name a file .npy"
            )
        outputs = outputs.reshape(len(outputs), math.prod(outputs.shape[1:]))
        made: dict[str, Column] = {}
        if self.keys is not None:
            made["file"] = list(self.keys[first_row : first_row + len(outputs)])
        if not self.num_classes or outputs.shape[1] != self.num_classes:
            names = [f"prediction_{place}" for place in range(outputs.shape[1])]
            names = ["prediction"] if len(names) == 1 else names
            return made | _numbers(names, outputs)
        # A model may have more classes than its data, which no example has taught it.
        known = outputs[:, : len(self.classes) or None]
        numbers = known.argmax(1).tolist()
        made["class"] = [self.classes[n] for n in numbers] if self.classes else numbers
        if self.probabilities:
            made |= _numbers([f"p_{self._name(n)}" for n in range(self.num_classes)], outputs)
        return made

    def _name(self, number: int) -> str:
        return self.classes[number] if number < len(self.classes) else str(number)


def _numbers(names: Sequence[str], outputs: np.ndarray) -> dict[str, Column]:
    return {name: outputs[:, place] for place, name in enumerate(names)}


def _cells(column: Column) -> list[Any]:
    """The cells of a column as text has them; of a float32 the shortest number that reads back as
    the same.
    """
    if isinstance(column, list):
        return column
    is_single = column.dtype == np.float32
    return (column.astype(str).astype(np.float64) if is_single else column).tolist()


class Format(Protocol):
    """Turns outputs into the bytes of a file."""

    def head(self, outputs: np.ndarray) -> bytes:
        """What a file begins with, given the first block, or one of no rows like it."""
        ...

    def rows(self, outputs: np.ndarray, first_row: int) -> bytes:
        """What a block adds to it."""
        ...

    def finish(self, file: IO[bytes], outputs: np.ndarray, num_rows: int) -> Path | None:
        """Completes the file, which holds `num_rows` rows like `outputs`; or makes another of it,
        whose path is returned.
        """
        ...


class NpyFormat:
    """One array [num_rows, ...]. NumPy leaves room in the header for any number of rows."""

    def head(self, outputs: np.ndarray) -> bytes:
        return self._header(outputs, 0)

    def rows(self, outputs: np.ndarray, first_row: int) -> bytes:
        return outputs.tobytes()

    def finish(self, file: IO[bytes], outputs: np.ndarray, num_rows: int) -> None:
        header = self._header(outputs, num_rows)
        assert len(header) == len(self._header(outputs, 0)), "the header does not grow"
        file.seek(0)
        file.write(header)

    def _header(self, outputs: np.ndarray, num_rows: int) -> bytes:
        made = io.BytesIO()
        shape = (num_rows, *outputs.shape[1:])
        described = {
            "descr": np.lib.format.dtype_to_descr(outputs.dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(made, described)
        return made.getvalue()


class CsvFormat:
    """A line of column names, and a line for each row."""

    def __init__(self, outputs: Outputs):
        self._outputs = outputs

    def head(self, outputs: np.ndarray) -> bytes:
        return _csv_lines([[*self._outputs.columns(outputs[:0], 0)]])

    def rows(self, outputs: np.ndarray, first_row: int) -> bytes:
        columns = self._outputs.columns(outputs, first_row)
        return _csv_lines(zip(*map(_cells, columns.values()), strict=True))

    def finish(self, file: IO[bytes], outputs: np.ndarray, num_rows: int) -> None:
        """Nothing is left to do."""


class JsonlFormat:
    """An object for each row; what is not finite is null, since JSON has no NaN."""

    def __init__(self, outputs: Outputs):
        self._outputs = outputs

    def head(self, outputs: np.ndarray) -> bytes:
        return b""

    def rows(self, outputs: np.ndarray, first_row: int) -> bytes:
        columns = self._outputs.columns(outputs, first_row)
        rows = zip(*map(_cells, columns.values()), strict=True)
        lines = (json.dumps(dict(zip(columns, map(_finite, row), strict=True))) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()

    def finish(self, file: IO[bytes], outputs: np.ndarray, num_rows: int) -> None:
        """Nothing is left to do."""


class ParquetFormat:
    """A Parquet file. Such a file cannot be continued, so the outputs are kept as they are, and it
    is made of them at the end.

    Args:
        outputs: what they mean.
        path: the file to make.

    Raises:
        AetheriaError: pyarrow is not installed.
    """

    def __init__(self, outputs: Outputs, path: Path):
        with needs_package(str(path), "pyarrow", "to write it"):
            import pyarrow  # pyright: ignore[reportMissingImports] # noqa: F401
        self._outputs, self._path = outputs, path

    def head(self, outputs: np.ndarray) -> bytes:
        self._outputs.columns(outputs[:0], 0)  # raises at once what the end would raise
        return b""

    def rows(self, outputs: np.ndarray, first_row: int) -> bytes:
        return outputs.tobytes()

    def finish(self, file: IO[bytes], outputs: np.ndarray, num_rows: int) -> Path:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]

        schema = None
        writer: Any = None
        file.seek(0)
        for first, block in _blocks(file, outputs, num_rows):
            columns = self._outputs.columns(block, first)
            schema = schema or pyarrow.Table.from_pydict(columns).schema
            writer = writer or parquet.ParquetWriter(self._path, schema)
            writer.write_table(pyarrow.Table.from_pydict(columns, schema=schema))
        writer.close()
        return self._path


def _blocks(file: IO[bytes], like: np.ndarray, num_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Reads outputs back, a group of rows at a time, with the number of its first row."""
    row_bytes = like.dtype.itemsize * math.prod(like.shape[1:])
    for first in range(0, num_rows, _ROWS_PER_GROUP):
        count = min(_ROWS_PER_GROUP, num_rows - first)
        block = np.frombuffer(file.read(count * row_bytes), like.dtype)
        yield first, block.reshape(count, *like.shape[1:])


def _csv_lines(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_format(kind: str, outputs: Outputs, made: Path) -> Format:
    """Makes the format `npy`, `csv`, `jsonl` or `parquet`; `made` is the file of the last one while
    it is incomplete.
    """
    formats: Mapping[str, Any] = {
        "npy": NpyFormat,
        "csv": lambda: CsvFormat(outputs),
        "jsonl": lambda: JsonlFormat(outputs),
        "parquet": lambda: ParquetFormat(outputs, made),
    }
    return formats[kind]()
