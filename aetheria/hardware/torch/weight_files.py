"""Weights in PyTorch's files: a `state_dict` as `.pt` or `.safetensors`. No code in them is run.

Knows files and tensors by name; no model.
"""

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from aetheria.errors import SnapshotError
from aetheria.hardware.layout.leaves import arrays_sha256

PICKLED, PLAIN = (".pt", ".pth", ".bin"), ".safetensors"
# In a folder: the weights, and which model they belong to. The names are those of model hubs.
WEIGHTS_FILE, MODEL_FILE = "model.safetensors", "config.json"
_ABOUT = "aetheria"
# What DistributedDataParallel and `torch.compile` put before every name.
_WRAPPERS = ("module.", "_orig_mod.")


class WeightFile(NamedTuple):
    """The contents of a weight file.

    Attributes:
        tensors: name -> array, floats of 32 or 64 bits.
        about: `model_name`, `model_params` and `example_spec` if the file has them, else empty.
    """

    tensors: Mapping[str, np.ndarray]
    about: Mapping[str, Any]


def read_weight_file(path: Path) -> WeightFile:
    """Reads a file of weights, or a folder that `write_weight_file` made.

    Raises:
        SnapshotError: there is no such file, it is damaged, or it holds anything but named tensors.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise SnapshotError(f"{path}: expected a file of weights, got none there; check the path")
    try:
        if path.suffix == PLAIN:
            tensors, about = _read_plain(path)
        elif path.suffix in PICKLED:
            tensors, about = _read_pickled(path), {}
        else:
            raise SnapshotError(f"a file that ends in {path.suffix or 'nothing'}")
        arrays = {name: _as_array(name, tensor) for name, tensor in _unwrapped(tensors).items()}
    except Exception as error:  # a damaged file may surface as any error of either library
        reason = str(error) if isinstance(error, SnapshotError) else _one_line(error)
        raise SnapshotError(
            f"{path}: expected a state_dict in a .pt or .safetensors file, got {reason}; save "
            "model.state_dict()"
        ) from error
    return WeightFile(arrays, about)


def write_weight_file(
    path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Writes weights to a new path: `.pt`, `.safetensors`, or, for any other name, a folder.

    Raises:
        OSError: it cannot be written.
    """
    about = {**about, "sha256": arrays_sha256(tensors)}
    if path.suffix in (*PICKLED, PLAIN):
        _write(path, tensors, about)
    else:
        path.mkdir()
        _write(path / WEIGHTS_FILE, tensors, about)
        (path / MODEL_FILE).write_text(json.dumps(about, indent=2) + "\n")


def _write(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    with path.open("wb") as file:  # opened here, so that a full disk is an OSError
        if path.suffix == PLAIN:
            file.write(save(tensors, {"format": "pt", _ABOUT: json.dumps(about)}))
        else:
            torch.save(tensors, file)


def _read_folder(path: Path) -> WeightFile:
    file = path / WEIGHTS_FILE
    if not file.is_file():
        raise SnapshotError(
            f"{path}: expected a folder with {WEIGHTS_FILE}, got none in it; name a file"
        )
    return read_weight_file(file)


def _read_plain(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
    if about and not about.keys() >= {"model_name", "model_params", "example_spec", "sha256"}:
        raise SnapshotError(f"metadata {_ABOUT!r} with the keys {', '.join(about)}")
    if about and about["sha256"] != arrays_sha256({n: t.numpy() for n, t in tensors.items()}):
        raise SnapshotError("tensors of another digest than the file says")
    return tensors, about


def _read_pickled(path: Path) -> Mapping[str, Any]:
    # PyTorch writes a checksum of every record, and does not check it when it reads.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise SnapshotError(f"a record {damaged!r} of another checksum than the file says")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the errors below say what is wrong with a file
        found = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]  # beside other things that a trainer saves
    if not isinstance(found, Mapping):
        raise SnapshotError(f"a {type(found).__name__}")
    return found


def _unwrapped(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    for prefix in _WRAPPERS:
        if tensors and all(str(name).startswith(prefix) for name in tensors):
            return _unwrapped({n.removeprefix(prefix): t for n, t in tensors.items()})
    return tensors


def _as_array(name: object, tensor: object) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise SnapshotError(f"{name!r} -> {type(tensor).__name__} in it")
    if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
        raise SnapshotError(f"a tensor {name!r} of {tensor.dtype}, {tensor.layout}")
    narrow = tensor.is_floating_point() and tensor.dtype is not torch.float64
    return (tensor.float() if narrow else tensor).contiguous().numpy()


def _one_line(error: Exception) -> str:
    """Shortens an error to its kind and the start of its text: PyTorch's are a page long."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text.split(". ")[0][:160]
