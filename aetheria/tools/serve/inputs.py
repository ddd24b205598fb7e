"""How the tensors of a request become the arrays that a model sees: arrays as in training, rows of
a table, or pictures. Knows no HTTP.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from aetheria.data.encoding import NumberColumn, TableEncoding
from aetheria.data.pictures import PictureEncoding
from aetheria.errors import AetheriaError, shown
from aetheria.inference import Predictor
from aetheria.tools.serve.errors import RequestError
from aetheria.tools.serve.tensors import Tensor, datatype_of

Tensors = Mapping[str, Tensor]
_MAX_PIXELS = 100_000_000  # of the pictures of one request together


class TensorSpec(NamedTuple):
    """An input or output as the metadata of a model lists it; the size -1 is any number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def input_specs(predictor: Predictor) -> list[TensorSpec]:
    """The inputs of a model: the columns of its table, or what its network sees."""
    if columns := _columns(predictor):
        kinds = [(c.name, "FP64" if isinstance(c, NumberColumn) else "BYTES") for c in columns]
        return [TensorSpec(name, datatype, (-1,)) for name, datatype in kinds]
    return [
        TensorSpec(name, datatype_of(np.zeros(0, spec.dtype)), (-1, *spec.shape[1:]))
        for name, spec in _leaves(predictor.input_spec).items()
    ]


def read_inputs(predictor: Predictor, tensors: Tensors, max_rows: int) -> Any:
    """Makes the arrays that the model sees; `Predictor.predict` of them is the answer.

    Args:
        predictor: the model.
        tensors: by name: those of `input_specs`; of a table, one `inputs` of encoded rows instead;
            of pictures, also `inputs` of BYTES, each the content of a file (base64 in JSON), or of
            UINT8 [batch, height, width, channel], decoded pictures of any size.
        max_rows: a request of more rows is refused.

    Raises:
        RequestError: they do not fit the model.
    """
    for tensor in tensors.values():
        if not tensor.array.shape or len(tensor.array) > max_rows:
            raise RequestError(
                400,
                f"inputs {shown(tensor.name)}: expected 0 to {max_rows} rows, got the shape "
                f"{list(tensor.array.shape)}; split the request",
            )
    try:
        return _form(predictor, tensors)(predictor, tensors)
    except AetheriaError as error:
        raise RequestError(400, " ".join("; ".join(error.problems).split())) from error


def _form(predictor: Predictor, tensors: Tensors) -> Callable[[Predictor, Tensors], Any]:
    names = {column.name for column in _columns(predictor)}
    if names and not (set(tensors) == {"inputs"} and "inputs" not in names):
        return _read_table
    if isinstance(predictor.encoding, PictureEncoding) and set(tensors) == {"inputs"}:
        return _read_pictures
    return _read_arrays


def _columns(predictor: Predictor) -> Sequence[Any]:
    encoding = predictor.encoding
    return encoding.columns if isinstance(encoding, TableEncoding) else ()


def _read_table(predictor: Predictor, tensors: Tensors) -> Any:
    _check_names(tensors, [column.name for column in _columns(predictor)])
    cells = {}
    for name, tensor in tensors.items():
        array = tensor.array
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise RequestError(
                400,
                f"inputs {shown(name)}: expected one cell a row, [rows] or [rows, 1], got the "
                f"shape {list(array.shape)}; correct it",
            )
        cells[name] = [_text(name, cell) for cell in array.tolist()]
    return predictor.encode(cells).arrays


def _read_pictures(predictor: Predictor, tensors: Tensors) -> Any:
    tensor, encoding = tensors["inputs"], predictor.encoding
    assert isinstance(encoding, PictureEncoding)
    if tensor.datatype != "BYTES":
        return (
            predictor.encode(tensor.array).arrays
            if tensor.datatype == "UINT8"
            else _read_arrays(predictor, tensors)
        )
    cells = tensor.array.ravel()
    max_pixels = _MAX_PIXELS // max(len(cells), 1)
    pictures = []
    for number, cell in enumerate(cells):
        where = f"inputs, picture {number}"
        pictures.append(encoding.read_bytes(_content(where, cell), where, max_pixels))
    stacked = np.stack(pictures) if pictures else np.zeros((0, *encoding.shape), np.float32)
    return predictor.encode(stacked).arrays


def _read_arrays(predictor: Predictor, tensors: Tensors) -> Any:
    specs = _leaves(predictor.input_spec)
    _check_names(tensors, [*specs])
    for name, spec in specs.items():
        array = _no_null(tensors[name]).array
        if array.ndim != len(spec.shape):  # a Predictor takes one example too; a server, rows
            raise RequestError(
                400,
                f"inputs {shown(name)}: expected the shape {[-1, *spec.shape[1:]]}, got "
                f"{list(array.shape)}; give a batch of rows",
            )
        kind = np.dtype(spec.dtype).kind
        if kind in "iu" and array.dtype.kind in "iu" and array.size:
            limits = np.iinfo(spec.dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise RequestError(
                    400,
                    f"inputs {shown(name)}: expected numbers within {spec.dtype}, got "
                    f"{array.min()} to {array.max()}; correct them",
                )
    if not isinstance(predictor.input_spec, Mapping):
        return predictor.encode(tensors["inputs"].array).arrays
    nested: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *outer, last = name.split("/")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = tensor.array
    return predictor.encode(nested).arrays


def _leaves(spec: Any) -> dict[str, Any]:
    """Input name -> its spec: `inputs`, or paths in the mapping that the model was trained on."""
    if not isinstance(spec, Mapping):
        return {"inputs": spec}
    leaves, _ = jax.tree_util.tree_flatten_with_path(spec)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def _check_names(tensors: Tensors, names: Sequence[str]) -> None:
    if set(tensors) != set(names):
        raise RequestError(
            400,
            f"inputs: expected {', '.join(names)}, got {', '.join(tensors) or 'none'}; give each "
            "input of the model's metadata",
        )


def _no_null(tensor: Tensor) -> Tensor:
    if tensor.has_null:
        raise RequestError(
            400,
            f"inputs {shown(tensor.name)}: expected numbers, got null; only a cell of a table may "
            "be missing",
        )
    return tensor


def _text(name: str, cell: Any) -> Any:
    """A cell of a table; BYTES from binary data are text."""
    try:
        return cell.decode() if isinstance(cell, bytes) else cell
    except UnicodeDecodeError as error:
        raise RequestError(
            400, f"inputs {shown(name)}: expected UTF-8 text, got {shown(cell)}; correct it"
        ) from error


def _content(where: str, cell: Any) -> bytes:
    """The bytes of a file: as they are from binary data, in base64 from JSON."""
    if isinstance(cell, bytes):
        return cell
    try:
        return base64.b64decode(cell, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise RequestError(
            400, f"{where}: expected base64 of a picture's file, got {shown(cell)}; encode it"
        ) from error
