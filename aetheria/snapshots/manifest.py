"""Digests make a checkpoint a verified one: Orbax restores a flipped bit without an error."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aetheria.engine.typed_json import JsonObject, read_json, to_json
from aetheria.errors import SnapshotError, shown

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LeafDigest:
    """What identifies one leaf."""

    sha256: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a snapshot holds.

    Attributes:
        version: of this layout.
        leaves: path -> digest, shape and dtype, in the order of the state's tree.
        record: sha256 of the record.
    """

    version: int
    leaves: Mapping[str, LeafDigest]
    record: str


def make_manifest(arrays: Mapping[str, np.ndarray], record: JsonObject) -> JsonObject:
    """Digests every leaf and the record; returns the manifest as it is written."""
    leaves = {
        path: LeafDigest(sha256=digest(array), shape=array.shape, dtype=str(array.dtype))
        for path, array in arrays.items()
    }
    written = to_json(Manifest(version=VERSION, leaves=leaves, record=record_digest(record)))
    assert isinstance(written, dict)
    return written


def read_manifest(value: object) -> Manifest:
    """Reads what `make_manifest` returned.

    Raises:
        SnapshotError: it is no manifest, of another version, or names a leaf as if it lay
            elsewhere.
    """
    version = value.get("version") if isinstance(value, Mapping) else None
    if version != VERSION:
        raise SnapshotError(
            f"manifest: expected version {VERSION}, got {shown(version)}; "
            "read it with the release that wrote it"
        )
    manifest = read_json(Manifest, value, "manifest")
    for leaf in manifest.leaves:
        if any(part in ("", ".", "..") or "\\" in part for part in leaf.split("/")):
            raise SnapshotError(f"a leaf {leaf!r}, whose name leaves the snapshot")
    return manifest


def check_manifest(
    manifest: Manifest, arrays: Mapping[str, np.ndarray], record: JsonObject
) -> None:
    """Compares what was read with what was written.

    Raises:
        SnapshotError: the record, or the first leaf that differs, which is named.
    """
    if record_digest(record) != manifest.record:
        raise SnapshotError("record: expected the digest in the manifest, got another")
    for path, leaf in manifest.leaves.items():
        array = arrays[path]
        if str(array.dtype) != leaf.dtype or array.shape != leaf.shape:
            raise SnapshotError(
                f"leaf {path!r}: expected {leaf.dtype}{list(leaf.shape)}, "
                f"got {array.dtype}{list(array.shape)}"
            )
        if digest(array) != leaf.sha256:
            raise SnapshotError(f"leaf {path!r}: expected the digest in the manifest, got another")


def digest(array: np.ndarray) -> str:
    """The sha256 of an array's bytes in C order, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def record_digest(record: JsonObject) -> str:
    """The sha256 of a record, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def part_sha256(arrays: Mapping[str, ArrayLike], part: str) -> str:
    """Digests the bytes of a part of an exported state, such as `params`, in tree order."""
    total = hashlib.sha256()
    for path, array in arrays.items():
        if path == part or path.startswith(f"{part}/"):
            total.update(np.ascontiguousarray(np.asarray(array)).view(np.uint8).data)
    return total.hexdigest()
