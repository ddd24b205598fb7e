"""Digests: what makes a snapshot trustworthy. Orbax restores a flipped bit without a word."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from aetheria.errors import SnapshotError

VERSION = 1


def make_manifest(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any]:
    """Digests every leaf and the record.

    Returns:
        JSON values: `leaves` maps a path to its sha256, shape and dtype; `record` is the sha256 of
        the record.
    """
    leaves = {
        path: {
            "sha256": digest(array),
            "shape": list(array.shape),
            "dtype": str(array.dtype),
        }
        for path, array in arrays.items()
    }
    return {"version": VERSION, "leaves": leaves, "record": record_digest(record)}


def check_manifest(
    manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> None:
    """Compares what was read with what was written.

    Raises:
        SnapshotError: names the first leaf that differs, is missing, or is not in the manifest.
    """
    if manifest["version"] != VERSION:
        raise SnapshotError(
            f"manifest: expected version {VERSION}, got {manifest['version']}; "
            "read it with the release that wrote it"
        )
    if record_digest(record) != manifest["record"]:
        raise SnapshotError("record: expected the digest in the manifest, got another")
    leaves = manifest["leaves"]
    for path in [*leaves, *arrays]:
        if path not in arrays or path not in leaves:
            raise SnapshotError(f"leaf {path!r}: expected in data and manifest, got only one")
        array, expected = arrays[path], leaves[path]
        if str(array.dtype) != expected["dtype"] or list(array.shape) != expected["shape"]:
            raise SnapshotError(
                f"leaf {path!r}: expected {expected['dtype']}{expected['shape']}, "
                f"got {array.dtype}{list(array.shape)}"
            )
        if digest(array) != expected["sha256"]:
            raise SnapshotError(f"leaf {path!r}: expected the digest in the manifest, got another")


def digest(array: np.ndarray) -> str:
    """The sha256 of an array's bytes in C order, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def record_digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def part_sha256(arrays: Mapping[str, Any], part: str) -> str:
    """Digests the host bytes of a part of an exported state, such as `params`, in tree order."""
    total = hashlib.sha256()
    for path, array in arrays.items():
        if path == part or path.startswith(f"{part}/"):
            total.update(np.ascontiguousarray(np.asarray(array)).view(np.uint8).data)
    return total.hexdigest()
