"""Opens an input by its name: a file by its ending, a folder of pictures, or stdin."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aetheria.data.encoding import Encoding, TableEncoding
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError, shown
from aetheria.tools.predict.arrays import NpzInput, open_npy
from aetheria.tools.predict.rows import Expected, Input
from aetheria.tools.predict.tables import READERS, ParquetInput, TextInput


def open_input(path: Path, expected: Expected) -> Input:
    """Opens a file or a folder of pictures.

    Args:
        path: a `.npy`, `.npz`, `.csv`, `.jsonl` or `.parquet` file, or a folder.
        expected: what the model was trained on.

    Raises:
        AetheriaError: it is none of these, cannot be read, or is not like the data of training.
    """
    path = path.expanduser()
    ending = path.suffix.lower()
    if path.is_dir():
        return PictureInput(path, expected.encoding)
    if ending not in (".npy", ".npz", ".csv", ".jsonl", ".parquet"):
        raise AetheriaError(
            "input: expected a .npy, .npz, .csv, .jsonl or .parquet file, or a folder of pictures, "
            f"got {shown(str(path))}; convert it"
        )
    if not path.exists():
        raise AetheriaError(
            f"input: expected a file that can be read, got {shown(str(path))} (No such file or "
            "directory); check the path"
        )
    if ending == ".npy":
        return open_npy(path, expected)
    if ending == ".npz":
        return NpzInput(path, expected)
    if ending == ".parquet":
        return ParquetInput(path, expected)
    return TextInput(path, READERS[ending[1:]], expected)


class PictureInput:
    """The pictures in a folder and in those below it, in the order of their paths.

    Args:
        folder: where they lie.
        encoding: how a picture becomes inputs.

    Raises:
        AetheriaError: there are none, or the model was not trained on a folder of pictures.
    """

    def __init__(self, folder: Path, encoding: Encoding | None):
        if encoding is None or isinstance(encoding, TableEncoding):
            raise AetheriaError(
                "input: expected a file, since the model was not trained on a folder of pictures, "
                f"got the folder {folder}; name a file in it"
            )
        from aetheria.data.image_folder import ENDINGS

        self._folder, self._encoding = folder, encoding
        self.keys: Sequence[str] | None = sorted(
            os.path.relpath(os.path.join(place, name), folder)
            for place, _, names in os.walk(folder)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in ENDINGS
        )
        self.num_rows: int | None = len(self.keys)
        if not self.keys:
            raise AetheriaError(
                f"{folder}: expected pictures to predict for, got none; give a folder with files "
                f"{', '.join(ENDINGS[:3])}, …"
            )

    def blocks(self, start: int, size: int) -> Iterator[Any]:
        assert self.keys is not None, "listed when it was opened"
        for first in range(start, len(self.keys), size):
            names = self.keys[first : first + size]
            yield self._encoding.encode_inputs([self._folder / name for name in names])

    def identity(self) -> JsonObject | None:
        assert self.keys is not None, "listed when it was opened"
        total = hashlib.sha256()
        for name in self.keys:
            about = (self._folder / name).stat()
            total.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        return {"num_pictures": len(self.keys), "sha256": total.hexdigest()}
