"""Weights under the model's own leaf names, as `.safetensors`: `params/Dense_0/kernel`.

The package safetensors reads and writes the format; PyTorch is not needed, and no code in a file
is run.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aetheria.build.weights.about import FORMAT_VERSION, About
from aetheria.engine.typed_json import read_json, to_json
from aetheria.errors import SnapshotError
from aetheria.hardware.layout.leaves import arrays_sha256
from aetheria.plugins.packages import require_package
from aetheria.snapshots.snapshot_files import one_line

SUFFIX = ".safetensors"
_ABOUT, _DIGEST, _FORMAT = "aetheria", "sha256", {"format": "jax"}
_PARTS = ("params", "model_state")
_MAX_HEADER = 100_000_000  # bytes, as the package has it


class LeafFile(NamedTuple):
    """The contents of a file.

    Attributes:
        arrays: leaf path -> array, as stored.
        about: what it says of its model; None: another program wrote it.
    """

    arrays: Mapping[str, np.ndarray]
    about: About | None


def is_leaf_file(path: Path) -> bool:
    """Whether a `.safetensors` file has JAX's leaf names, not PyTorch's; or a header that cannot be
    read.
    """
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, _MAX_HEADER)))
        metadata = header.pop("__metadata__", {})
        return metadata.get("format") == _FORMAT["format"] or any("/" in name for name in header)
    except (OSError, ValueError, AttributeError, RecursionError, struct.error):
        return True  # whoever reads it says what is wrong


def read_leaf_file(path: Path) -> LeafFile:
    """Reads a file of leaves. Names that start with neither `params` nor `model_state` are those of
    parameters.

    Raises:
        ConfigError: the package safetensors is missing.
        SnapshotError: the file is damaged, or says something of its model that is no description.
    """
    require_package(str(path), "safetensors", "export")
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
        about = json.loads(metadata[_ABOUT]) if _ABOUT in metadata else None
        _check_names(arrays)
        if _DIGEST in metadata and metadata[_DIGEST] != arrays_sha256(
            arrays, metadata.get(_ABOUT, "")
        ):
            raise SnapshotError("another digest than the file says")
    except Exception as error:  # a damaged file may surface as any error of the library
        reason = str(error) if isinstance(error, SnapshotError) else one_line(error)[:160]
        raise SnapshotError(
            f"{path}: expected an undamaged .safetensors file, got {reason}; write it again"
        ) from error
    if not any(name.split("/")[0] in _PARTS for name in arrays):
        arrays = {f"params/{name}": array for name, array in arrays.items()}
    return LeafFile(arrays, None if about is None else _read_about(about, str(path)))


def write_leaf_file(path: Path, arrays: Mapping[str, np.ndarray], about: About) -> None:
    """Writes a file of leaves, each in its own dtype.

    Raises:
        ConfigError: the package safetensors is missing.
        OSError: it cannot be written.
    """
    require_package("export", "safetensors", "export")
    from safetensors.numpy import save

    plain = {name: np.array(array, order="C") for name, array in arrays.items()}
    said = json.dumps(to_json(about))
    metadata = {**_FORMAT, _ABOUT: said, _DIGEST: arrays_sha256(plain, said)}
    path.write_bytes(save(plain, metadata))


def _read_about(said: object, where: str) -> About:
    version = said.get("format_version") if isinstance(said, Mapping) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise SnapshotError(
            f"{where}: expected format_version {FORMAT_VERSION}, got {version}; read it with the "
            "release that wrote it"
        )
    return read_json(About, said, f"{where}: metadata {_ABOUT!r}")


def _check_names(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises SnapshotError if names are no paths in one tree."""
    for name in arrays:
        parts = name.split("/")
        inner = ("/".join(parts[:end]) for end in range(1, len(parts)))
        if any(part in ("", ".", "..") for part in parts) or any(each in arrays for each in inner):
            raise SnapshotError(f"a leaf {name[:80]!r}, which is no path in a tree")
