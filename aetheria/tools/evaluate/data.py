"""Data to evaluate on that is not the run's own: read, encoded as in training, and checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aetheria.data.arrays import read_npz
from aetheria.data.encoding import Cells, Encoding, TableEncoding, as_cells
from aetheria.data.error_context import located, missing_file
from aetheria.data.forms import is_table, name_parts
from aetheria.data.sources import ArraySource, Columns, DataSplits, Source, is_parallel
from aetheria.data.tables import encode_columns, read_cells
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError, shown

_TABLES = (".csv", ".parquet")


class TrainedOn(NamedTuple):
    """What a snapshot says of the data that its model was trained on.

    Attributes:
        encoding: how a table or pictures became columns; None: they were given so.
        example_spec: column name -> {"shape", "dtype"} of one example.
        weight: the column of a table with the weight of each example; None: there is none.
    """

    encoding: Encoding | None
    example_spec: JsonObject
    weight: str | None = None

    @property
    def table(self) -> TableEncoding | None:
        """The encoding, if the inputs were made of the columns of a table."""
        is_table = isinstance(self.encoding, TableEncoding) and bool(self.encoding.columns)
        return self.encoding if is_table else None  # pyright: ignore[reportReturnType]


def splits_to_evaluate(given: Any, trained: TrainedOn) -> DataSplits:
    """Makes splits of data as `aetheria.train(data=…)` takes it, or of the path of a file.

    The splits to evaluate are those of `eval`; without any, it is all of the data.

    Args:
        given: the path of a `.csv`, `.parquet` or `.npz` file or of a folder `PATH/CLASS/…` of
            pictures; a table with the columns of training; or any form of data with the arrays of
            training.
        trained: what the snapshot says of the data.

    Raises:
        AetheriaError: it cannot be read, or is not like the data of training.
    """
    if isinstance(given, str | Path):
        path = Path(given).expanduser()
        with missing_file("data"):
            parts: Mapping[str, Source] = {"eval": _read(path, trained)}
        where = str(path)
    else:
        parts, where = _parts(given, trained), "data"
    sources = {name: _like_training(part, trained, where) for name, part in parts.items()}
    named = {name.removeprefix("eval/"): source for name, source in sources.items()}
    return DataSplits(train=next(iter(named.values())), eval=named)


def check_columns_of_training(found: JsonObject, trained: TrainedOn, where: str) -> None:
    """Raises AetheriaError if a column of the data has another shape or dtype than in training."""
    for name, column in trained.example_spec.items():
        if found.get(name) != column:
            raise AetheriaError(
                f"{where}: expected a column {name!r} of {_column_text(column)}, as in training, "
                f"got {_column_text(found.get(name))}; prepare the data as in training"
            )


def _parts(given: Any, trained: TrainedOn) -> dict[str, Source]:
    """The evaluation splits of data as a program gives it."""
    if trained.table is not None and _is_rows(given):
        cells = as_cells(given)
        assert cells is not None, "a data frame, a mapping, or a list of mappings"
        return {"eval": _encode(cells, trained.table, trained, "data")}
    if isinstance(given, DataSplits) and given.encoding is not None:
        _check_encoding(given.encoding, trained)
    parts = name_parts(given, None)
    if "data" in parts:
        return {"eval": parts["data"]}
    return {name: part for name, part in parts.items() if name.split("/")[0] == "eval"}


def _is_rows(given: Any) -> bool:
    """Whether data is rows of a table, and not columns as a model sees them."""
    if isinstance(given, Mapping):
        return "inputs" not in given
    is_list = isinstance(given, Sequence) and bool(given) and isinstance(given[0], Mapping)
    return is_table(given) or (is_list and "inputs" not in given[0])


def _check_encoding(encoding: Encoding, trained: TrainedOn) -> None:
    """Raises AetheriaError if data was encoded by what another table says."""
    if trained.encoding is None or encoding.to_json() != trained.encoding.to_json():
        raise AetheriaError(
            "data: expected data that is encoded as in training, got DataSplits whose means, texts "
            "and classes were learned from other rows; give the file or the data frame itself"
        )


def _read(path: Path, trained: TrainedOn) -> Source:
    """Reads a file or a folder.

    Raises:
        AetheriaError: it is of no kind that the run was trained on.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        return _read_pictures(path, trained)
    if ending == ".npz":
        arrays = read_npz(path)
        if trained.table is not None and "inputs" not in arrays:
            cells = {name: array.tolist() for name, array in arrays.items()}
            return _encode(cells, trained.table, trained, str(path))
        with located(str(path)):
            return ArraySource(arrays)
    if ending not in _TABLES:
        raise AetheriaError(
            f"data: expected a .csv, .parquet or .npz file, or a folder of pictures, got "
            f"{shown(str(path))}; convert it"
        )
    if trained.table is None:
        raise AetheriaError(
            f"{path}: expected a file of arrays, since the run was not trained on a table, got "
            f"a {ending} file; give a .npz file with the columns "
            f"{', '.join(_columns(trained.example_spec))}"
        )
    return _encode(read_cells(path, "data"), trained.table, trained, str(path))


def _read_pictures(path: Path, trained: TrainedOn) -> Source:
    if trained.encoding is None or isinstance(trained.encoding, TableEncoding):
        raise AetheriaError(
            f"data: expected a file, since the run was not trained on a folder of pictures, got "
            f"the folder {path}; name a file in it"
        )
    from aetheria.data.image_folder import held_out_pictures
    from aetheria.data.pictures import PictureEncoding

    assert isinstance(trained.encoding, PictureEncoding), "the two encodings of a snapshot"
    return held_out_pictures(path, trained.encoding)


def _encode(cells: Cells, encoding: TableEncoding, trained: TrainedOn, where: str) -> Source:
    """Makes the columns of training of the cells of a table.

    Raises:
        AetheriaError: a column is missing, or a cell is of no use; column and row are named.
    """
    weight = trained.weight
    if "weight" in trained.example_spec and weight is None:
        weight = "weight"  # the table was given as an object, so nothing says its column's name
    needed = {encoding.label: "with the labels"}
    if weight is not None:
        needed[weight] = "with the weights of the examples"
    for name, purpose in needed.items():
        if name not in cells:
            raise AetheriaError(
                f"{where}: expected a column {name!r} {purpose}, as in training, got "
                f"{', '.join(cells)}; add it, or use aetheria predict"
            )
    with located(where):
        return ArraySource(encode_columns(cells, encoding, weight))


def _like_training(source: Source, trained: TrainedOn, where: str) -> Source:
    """Gives a source the columns of training, in their dtypes where that loses no kind of number.

    Raises:
        AetheriaError: a column is missing.
    """
    names = _columns(trained.example_spec)
    first = source.read(np.zeros(1, np.int64))
    for name in names:
        if name not in first:
            raise AetheriaError(
                f"{where}: expected the columns of training ({', '.join(names)}), got "
                f"{', '.join(first)}; add {name!r}"
            )
    dtypes = {name: np.dtype(_dtype(trained.example_spec[name])) for name in names}
    if type(source) is ArraySource:
        return ArraySource(_cast(source.columns, dtypes))
    return _Converted(source, dtypes)


class _Converted:
    """A source whose columns are cast as they are read."""

    def __init__(self, source: Source, dtypes: Mapping[str, np.dtype]):
        self._source, self._dtypes = source, dtypes
        self.parallel = is_parallel(source)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Columns:
        return _cast(self._source.read(indices), self._dtypes)


def _cast(columns: Columns, dtypes: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    cast = {}
    for name, dtype in dtypes.items():
        column = columns[name]
        fits = np.can_cast(column.dtype, dtype, "same_kind")
        cast[name] = column.astype(dtype, copy=False) if fits else column
    return cast


def _columns(example_spec: JsonObject) -> list[str]:
    return [name for name in example_spec if name != "mask"]


def _dtype(column: object) -> str:
    dtype = column.get("dtype") if isinstance(column, Mapping) else None
    if not isinstance(dtype, str):
        raise AetheriaError(
            f"example_spec: expected the dtype of each column, got {shown(column)}; use another "
            "snapshot"
        )
    return dtype


def _column_text(column: object) -> str:
    if not isinstance(column, Mapping):
        return "nothing"
    return f"{column.get('dtype')} rows of shape {column.get('shape')}"
