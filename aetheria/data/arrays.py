"""Arrays in NumPy's files: `.npz`, and `.npy` that are read row by row, not as a whole."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.data.columns import as_column
from aetheria.data.file_splits import read_each
from aetheria.data.forms import EVAL_FRACTION, hold_out
from aetheria.data.sources import ArraySource, Columns, DataSplits, Source
from aetheria.errors import AetheriaError, shown
from aetheria.plugins import register_data

# What NumPy raises for a file that is none of its own, is damaged, or claims to be enormous.
_DAMAGED = (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error)


class MappedSource:
    """Columns in memory-mapped files: a read copies the rows that it asks for.

    Args:
        columns: column name -> [num_examples, ...], of one length.
    """

    parallel = True

    def __init__(self, columns: Mapping[str, np.ndarray]):
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def read(self, indices: np.ndarray) -> Columns:
        return {name: as_column(name, c[indices], indices) for name, c in self._columns.items()}


@register_data("npz")
def npz(
    *,
    file: str,
    eval_file: str | dict[str, str] | None = None,
    eval_fraction: float = EVAL_FRACTION,
    test_file: str | None = None,
) -> DataSplits:
    """A `.npz` file with an array for each column, such as `inputs` and `labels`, read into memory.

    Args:
        file: relative to the current folder.
        eval_file: as `file`, to evaluate on, or several by name, such as `{val: a.npz, ood:
            b.npz}`; None: `eval_fraction` of the examples is held out.
        eval_fraction: see `eval_file`.
        test_file: as `file`, to evaluate once, when the run completes.

    Raises:
        AetheriaError: a file is missing or none of NumPy's, or its arrays do not fit together.
    """
    train, read = ArraySource(read_npz(file)), lambda name, _: ArraySource(read_npz(name))
    if eval_file is None:
        splits = hold_out(train, eval_fraction)
    else:
        splits = DataSplits(train, read_each(eval_file, "eval_file", read))
    return replace(splits, test=None if test_file is None else read(test_file, "test_file"))


@register_data("npy")
def npy(
    *,
    files: dict[str, str],
    eval_files: dict[str, str] | dict[str, dict[str, str]] | None = None,
    eval_fraction: float = EVAL_FRACTION,
    test_files: dict[str, str] | None = None,
) -> DataSplits:
    """Columns in `.npy` files, memory-mapped: data larger than memory is read as it is needed.

    Args:
        files: column name -> file, such as `{inputs: x.npy, labels: y.npy}`.
        eval_files: as `files`, to evaluate on, or several by name; None: `eval_fraction` of the
            examples is held out.
        eval_fraction: see `eval_files`.
        test_files: as `files`, to evaluate once, when the run completes.

    Raises:
        AetheriaError: a file is missing or none of NumPy's, or the columns differ in length.
    """
    train, held_out = _map(files, "files"), _map_each(eval_files)
    splits = hold_out(train, eval_fraction) if held_out is None else DataSplits(train, held_out)
    return replace(splits, test=None if test_files is None else _map(test_files, "test_files"))


def read_npz(name: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.npz` file into memory; raises AetheriaError if it is none."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:  # which NumPy leaves open if it is damaged
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("a single array")
            return {name: arrays[name] for name in arrays.files}
    except _DAMAGED as error:
        raise _not_numpy(path, "a .npz file of arrays of numbers", error) from error


def _map_each(files: Any) -> Source | dict[str, Source] | None:
    """Maps an evaluation split, or several by name; their files are mappings of columns, too."""
    if isinstance(files, Mapping) and any(isinstance(each, Mapping) for each in files.values()):
        return {name: _map(each, f"eval_files.{name}") for name, each in files.items()}
    return None if files is None else _map(files, "eval_files")


def _map(files: Mapping[str, str], where: str) -> Source:
    are_files = isinstance(files, Mapping) and all(isinstance(f, str) for f in files.values())
    if not are_files or not files:
        raise AetheriaError(
            f"data_params.{where}: expected columns and their files, got {shown(files)}; give "
            "{inputs: x.npy, labels: y.npy}"
        )
    columns = {name: _map_one(Path(file).expanduser()) for name, file in files.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise AetheriaError(
            f"data_params.{where}: expected columns of one length, got {sizes}; give every example "
            "every column"
        )
    return MappedSource(columns)


def _map_one(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or not array.ndim:
            raise ValueError("no array of examples")
    except _DAMAGED as error:
        raise _not_numpy(path, "a .npy file with an array of numbers", error) from error
    return array


def _not_numpy(path: Path, what: str, error: Exception) -> AetheriaError:
    text = " ".join(str(error).split())[:120]
    return AetheriaError(f"{path}: expected {what}, got {text}; save it with numpy.save")
