"""Inputs in rows: CSV and JSON lines, also from stdin, and Parquet; read block by block."""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeAlias

from aetheria.data.encoding import Cells, as_number
from aetheria.data.error_context import missing_file, needs_package
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError, shown
from aetheria.tools.predict.arrays import identify_file
from aetheria.tools.predict.rows import Expected, no_rows

# (lines, the name of the input, rows in a block) -> blocks of cells.
Reader: TypeAlias = Callable[[TextIO, str, int], Iterator[Cells]]


class TextInput:
    """Rows of a text, each block of which is parsed when it is asked for.

    Args:
        path: the file; None: stdin.
        read: parses it.
        expected: what the model was trained on.
        stdin: in place of a file; it is left open.
    """

    num_rows: int | None = None
    keys = None

    def __init__(
        self, path: Path | None, read: Reader, expected: Expected, stdin: BinaryIO | None = None
    ):
        self._path, self._read, self._expected, self._stdin = path, read, expected, stdin
        self._where = "stdin" if path is None else str(path)

    def blocks(self, start: int, size: int) -> Iterator[Any]:
        first = 0
        with self._opened() as lines:
            try:
                for cells in self._read(lines, self._where, size):
                    num_rows = len(next(iter(cells.values())))
                    if first >= start:
                        yield self._expected.from_cells(cells, first, self._where)
                    first += num_rows
            except UnicodeDecodeError as error:
                raise AetheriaError(
                    f"{self._where}: expected text in UTF-8, got {error}; convert it"
                ) from error
        if not first:
            raise no_rows(self._where)

    def identity(self) -> JsonObject | None:
        return None if self._path is None else identify_file(self._path)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[TextIO]:
        if self._stdin is not None:
            lines = io.TextIOWrapper(self._stdin, encoding="utf-8-sig", newline="")
            try:
                yield lines
            finally:
                lines.detach()
            return
        assert self._path is not None, "a file, or stdin"
        with missing_file("input"), self._path.open(newline="", encoding="utf-8-sig") as lines:
            yield lines


def open_stdin(expected: Expected) -> tuple[TextInput, str]:
    """Reads stdin: JSON lines if it begins with `{` or `[`, else CSV. Returns the name of the
    format too, `jsonl` or `csv`.
    """
    stdin = sys.stdin.buffer
    assert isinstance(stdin, io.BufferedReader), "Python opens it so"
    begins = stdin.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    kind = "jsonl" if begins in (b"{", b"[") else "csv"
    return TextInput(None, READERS[kind], expected, stdin), kind


def read_csv(lines: TextIO, where: str, size: int) -> Iterator[Cells]:
    """Yields blocks of cells under a first line of column names."""
    rows = (row for row in csv.reader(lines) if row)
    try:
        names = [name.strip() for name in next(rows, [])]
        if names and (len({*names}) < len(names) or not all(names)):
            raise AetheriaError(
                f"{where}: expected a first line of different column names, got "
                f"{', '.join(names)[:100]}; name every column"
            )
        if names and all(as_number(name) is not None for name in names):
            raise AetheriaError(
                f"{where}: expected a first line of column names, got numbers "
                f"({', '.join(names)[:60]}); add such a line"
            )
        first = 0
        while block := list(islice(rows, size)):
            for number, row in enumerate(block, first):
                if len(row) != len(names):
                    raise AetheriaError(
                        f"{where}, row {number}: expected {len(names)} cells, as there are column "
                        f"names, got {len(row)}; correct it"
                    )
            yield {name: [row[place].strip() for row in block] for place, name in enumerate(names)}
            first += len(block)
    except csv.Error as error:
        raise AetheriaError(f"{where}: expected CSV, got {error}; convert it") from error


def read_jsonl(lines: TextIO, where: str, size: int) -> Iterator[Cells]:
    """Yields blocks of cells: each line is an object with the same keys, or a list of numbers."""
    parsed = _parsed(lines, where)
    names: list[str] | None = None
    first = 0
    while block := list(islice(parsed, size)):
        names = [*block[0]] if names is None else names
        for number, row in enumerate(block, first):
            if row.keys() != {*names}:
                raise AetheriaError(
                    f"{where}, row {number}: expected the keys of row 0 ({', '.join(names)}), got "
                    f"{', '.join(row) or 'none'}; give every row every key, null where it has "
                    "nothing"
                )
        yield {name: [row[name] for row in block] for name in names}
        first += len(block)


def _parsed(lines: TextIO, where: str) -> Iterator[Mapping[str, Any]]:
    number = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise AetheriaError(
                f"{where}, row {number}: expected JSON, got {shown(line.strip())[:100]} ({error}); "
                "correct it"
            ) from error
        if isinstance(row, list):
            row = {"inputs": row}
        if not isinstance(row, dict) or not row:
            raise AetheriaError(
                f"{where}, row {number}: expected an object or a list of numbers, got "
                f"{shown(row)}; write one a line"
            )
        yield row
        number += 1


READERS: Mapping[str, Reader] = {"csv": read_csv, "jsonl": read_jsonl}


class ParquetInput:
    """Rows of a Parquet file, decoded block by block.

    Args:
        path: the file.
        expected: what the model was trained on.
    """

    keys = None

    def __init__(self, path: Path, expected: Expected):
        with needs_package(str(path), "pyarrow", "to read it"):
            import pyarrow  # pyright: ignore[reportMissingImports] # noqa: F401
        self._path, self._expected = path, expected
        with self._opened() as file:
            self.num_rows: int | None = file.metadata.num_rows
            names = file.schema_arrow.names
        if not self.num_rows:
            raise no_rows(str(path))
        self._columns = names
        if expected.table is not None:
            wanted = {column.name for column in expected.table.columns}
            self._columns = [name for name in names if name in wanted] or names
        elif "inputs" in names:
            self._columns = ["inputs"]

    def blocks(self, start: int, size: int) -> Iterator[Any]:
        first, held = 0, _Rows()
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=size, columns=self._columns):
                held.add(batch.to_pydict())
                while held.size >= size:
                    cells = held.take(size)
                    if first >= start:
                        yield self._expected.from_cells(cells, first, str(self._path))
                    first += size
            if held.size and first >= start:
                yield self._expected.from_cells(held.take(size), first, str(self._path))

    def identity(self) -> JsonObject | None:
        return identify_file(self._path)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]

        with missing_file("input"):
            try:
                with parquet.ParquetFile(self._path) as file:
                    yield file
            except ArrowException as error:
                text = " ".join(str(error).split())[:200]
                raise AetheriaError(
                    f"{self._path}: expected a Parquet file, got {text}; check it"
                ) from error


class _Rows:
    """Cells that were read and not yet taken: a block may end inside a row group."""

    def __init__(self) -> None:
        self.size = 0
        self._cells: dict[str, list[Any]] = {}

    def add(self, cells: Mapping[str, list[Any]]) -> None:
        for name, column in cells.items():
            self._cells.setdefault(name, []).extend(column)
        self.size = len(next(iter(self._cells.values())))

    def take(self, count: int) -> dict[str, list[Any]]:
        taken = {name: column[:count] for name, column in self._cells.items()}
        self._cells = {name: column[count:] for name, column in self._cells.items()}
        self.size = len(next(iter(self._cells.values())))
        return taken
