"""Inputs in arrays: `.npy`, memory-mapped; `.npz`, read through; and arrays in memory."""

import mmap
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from aetheria.data.error_context import missing_file
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError
from aetheria.model.nesting import flat_columns, nested_columns
from aetheria.tools.predict.rows import Expected, no_rows

_DAMAGED = (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error)
_MAX_MAPPED_BYTES = 32 << 20
_SKIPPED_BYTES = 1 << 20


def identify_file(path: Path) -> JsonObject:
    """The size of a file and when it was last written."""
    about = path.stat()
    return {"size_bytes": about.st_size, "modified_ns": about.st_mtime_ns}


class ArrayInput:
    """Rows of an array, in memory or memory-mapped. Pages of a mapped file are given back, so that
    memory does not grow with the file.

    Args:
        array: [num_rows, ...].
        expected: what the model was trained on.
        where: its name in messages.
        path: the file that it lies in, if it is one.
    """

    keys = None

    def __init__(self, array: np.ndarray, expected: Expected, where: str, path: Path | None = None):
        expected.check_array(array.shape, array.dtype, where)
        self._array, self._expected, self._path = array, expected, path
        self.num_rows: int | None = len(array)

    def blocks(self, start: int, size: int) -> Iterator[Any]:
        mapping, held = _mapping_of(self._array), 0
        for first in range(start, len(self._array), size):
            block = np.array(self._array[first : first + size])
            held += block.nbytes
            if mapping is not None and held > _MAX_MAPPED_BYTES:
                mapping.madvise(mmap.MADV_DONTNEED)
                held = 0
            yield self._expected.from_array(block)

    def identity(self) -> JsonObject | None:
        return None if self._path is None else identify_file(self._path)


def open_npy(path: Path, expected: Expected) -> ArrayInput:
    """Maps a `.npy` file; raises AetheriaError if it is none, or not like training's inputs."""
    with missing_file("input"):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("an archive of arrays")
        except _DAMAGED as error:
            raise _not_numpy(path, "a .npy file with an array of numbers", error) from error
    return ArrayInput(array, expected, str(path), path)


class NpzInput:
    """Rows of the arrays of a `.npz` file, which is read through, compressed or not.

    It holds `inputs` (or, whatever its name, one array), `inputs/NAME` of each part, or of a model
    that was trained on a table the columns of it.

    Args:
        path: the file.
        expected: what the model was trained on.
    """

    keys = None

    def __init__(self, path: Path, expected: Expected):
        self._path, self._expected = path, expected
        with missing_file("input"):
            try:
                with zipfile.ZipFile(path) as archive:
                    self._names = self._choose([n.removesuffix(".npy") for n in archive.namelist()])
                    members = {name: _Member(archive, name) for name in self._names}
            except _DAMAGED as error:
                raise _not_numpy(path, "a .npz file of arrays of numbers", error) from error
        sizes = {member.num_rows for member in members.values()}
        if len(sizes) != 1:
            raise AetheriaError(
                f"{path}: expected arrays of one length, got {sorted(sizes)} in "
                f"{', '.join(members)}; give every row every column"
            )
        self.num_rows: int | None = sizes.pop()
        if not self.num_rows:
            raise no_rows(str(path))
        if self._is_single:
            member = members[self._names[0]]
            expected.check_array(member.shape, member.dtype, str(path))

    def blocks(self, start: int, size: int) -> Iterator[Any]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                members = {name: _Member(archive, name) for name in self._names}
                for member in members.values():
                    member.skip(start)
                assert self.num_rows is not None, "known from the headers"
                for first in range(start, self.num_rows, size):
                    count = min(size, self.num_rows - first)
                    arrays = {name: member.read(count) for name, member in members.items()}
                    yield self._inputs(arrays, first)
        except _DAMAGED as error:
            raise _not_numpy(self._path, "a .npz file of arrays of numbers", error) from error

    def identity(self) -> JsonObject | None:
        return identify_file(self._path)

    @property
    def _is_single(self) -> bool:
        is_nested = isinstance(self._expected.inputs, Mapping)
        return not is_nested and not (self._expected.table and "inputs" not in self._names)

    def _choose(self, there: list[str]) -> list[str]:
        """The arrays to read."""
        if isinstance(self._expected.inputs, Mapping):
            needed = [*flat_columns({"inputs": self._expected.inputs})]
        elif "inputs" in there:
            needed = ["inputs"]
        elif self._expected.table is not None:
            needed = [column.name for column in self._expected.table.columns]
        else:
            needed = there if len(there) == 1 else ["inputs"]
        if missing := [name for name in needed if name not in there]:
            raise AetheriaError(
                f"{self._path}: expected an array {missing[0]!r}, as in training, got "
                f"{', '.join(there) or 'none'}; save it under this name"
            )
        return needed

    def _inputs(self, arrays: Mapping[str, np.ndarray], first_row: int) -> Any:
        if isinstance(self._expected.inputs, Mapping):
            return nested_columns(arrays)["inputs"]
        if self._is_single:
            return self._expected.from_array(arrays[self._names[0]])
        cells = {name: array.tolist() for name, array in arrays.items()}
        return self._expected.from_cells(cells, first_row, str(self._path))


class _Member:
    """One array of an archive, whose rows are read one after another."""

    def __init__(self, archive: zipfile.ZipFile, name: str):
        self._file: IO[bytes] = archive.open(f"{name}.npy")
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        version = np.lib.format.read_magic(self._file)
        if version not in readers:
            raise ValueError(f"version {version} in {name}")
        self.shape, fortran, self.dtype = readers[version](self._file)
        if self.dtype.hasobject:
            raise ValueError(f"objects in {name}, which are never unpickled")
        if not self.shape or (fortran and len(self.shape) > 1):
            raise ValueError(f"an array that is not in the order of its rows in {name}")
        self.num_rows = int(self.shape[0])  # pyright: ignore[reportGeneralTypeIssues]
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def skip(self, num_rows: int) -> None:
        """Reads over rows."""
        left = num_rows * self._row_bytes
        while left:
            left -= len(self._read(min(left, _SKIPPED_BYTES)))

    def read(self, num_rows: int) -> np.ndarray:
        """Reads the next rows, [num_rows, ...]."""
        data = self._read(num_rows * self._row_bytes)
        return np.frombuffer(data, self.dtype).reshape(num_rows, *self.shape[1:])

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError("an array that ends early")
        return data


def _mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """The mapping of the file that an array lies in, if its pages may be dropped: one of the mode
    `c` holds changes that no file has.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        if getattr(base, "mode", None) == "c":
            return None
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _not_numpy(path: Path, what: str, error: Exception) -> AetheriaError:
    text = " ".join(str(error).split())[:120]
    return AetheriaError(f"{path}: expected {what}, got {text}; save it with NumPy")
