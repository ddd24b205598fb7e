"""Images from files in the IDX format, kept in memory as bytes and read as float32."""

import gzip
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aetheria.data.sources import DataSplits
from aetheria.errors import AetheriaError
from aetheria.plugins import register_data

_SYSTEM_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's package installs the files
_UNSIGNED_BYTE = 8  # the code of this dtype in the IDX format


class ImageSource:
    """Grayscale images in memory, one byte a pixel.

    It serves inputs f32 [height, width, 1] in [0, 1], and labels i32.

    Args:
        images: u8 [num_examples, height, width].
        labels: u8 [num_examples].

    Raises:
        AetheriaError: there are no images, or another number of labels.
    """

    in_memory = True

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        if not 0 < len(images) == len(labels):
            raise AetheriaError(
                f"ImageSource: expected images and as many labels, got {len(images)} and "
                f"{len(labels)}; take both from one dataset"
            )
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        inputs = self._images[indices, ..., None] / np.float32(255)
        return {"inputs": inputs, "labels": self._labels[indices].astype(np.int32)}


@register_data("fashion_mnist")
def fashion_mnist(
    *, folder: str | None = None, num_train: int | None = None, num_eval: int | None = None
) -> DataSplits:
    """Fashion-MNIST: 60,000 images of clothes for training and 10,000 for evaluation.

    Inputs are f32 [28, 28, 1] in [0, 1], labels i32 from 0 to 9.

    Args:
        folder: the folder of the four files `train-images-idx3-ubyte.gz` and so on. None: the
            folder `fashion-mnist` inside the folder that the environment variable AETHERIA_DATA
            names, if it exists; else the folder of Debian's package `dataset-fashion-mnist`.
        num_train: use only that many training images, the first ones; None: all.
        num_eval: use only that many evaluation images, the first ones; None: all.

    Raises:
        AetheriaError: a file is missing, damaged, or not in the IDX format; or there are fewer
            images than asked for.

    Source: Xiao et al., "Fashion-MNIST" (arXiv:1708.07747).
    """
    place = _find(folder)
    return DataSplits(
        train=_read_split(place, "train", "num_train", num_train),
        eval=_read_split(place, "t10k", "num_eval", num_eval),
    )


def _find(folder: str | None) -> Path:
    if folder is not None:
        return Path(folder).expanduser()
    own = Path(os.environ.get("AETHERIA_DATA", "")) / "fashion-mnist"
    return own if "AETHERIA_DATA" in os.environ and own.is_dir() else Path(_SYSTEM_FOLDER)


def _read_split(folder: Path, prefix: str, argument: str, count: int | None) -> ImageSource:
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", num_dims=3)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", num_dims=1)
    if count is not None and not 0 < count <= len(images):
        raise AetheriaError(
            f"data_params.{argument}: expected a number from 1 to {len(images)}, got {count}; "
            "leave it out for all"
        )
    return ImageSource(images[:count], labels[:count])


def read_idx(file: Path, num_dims: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes.

    The header consists of two zero bytes, a code for the dtype, the number of dims, and the size of
    each dim as a big-endian u32.

    Returns:
        An array u8 with `num_dims` dims.

    Raises:
        AetheriaError: the file is missing, damaged, of another dtype or number of dims, or its
            length does not agree with its header.
    """
    content = _unzip(file)
    magic = bytes([0, 0, _UNSIGNED_BYTE, num_dims])
    if content[:4] != magic:
        raise AetheriaError(
            f"{file}: expected an IDX file of bytes with {num_dims} dims (it begins with "
            f"{magic.hex()}), got one that begins with {content[:4].hex()!r}; download it again"
        )
    begin = 4 + 4 * num_dims
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, begin, 4)]
    if len(content) != begin + math.prod(shape):
        raise AetheriaError(
            f"{file}: expected {begin + math.prod(shape)} bytes, as its header says ({shape}), got "
            f"{len(content)}; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def _unzip(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes())
    except OSError as error:
        if not isinstance(error, gzip.BadGzipFile):
            raise AetheriaError(
                f"data_params.folder: expected a file {file}, got none that can be read; "
                "`apt-get install dataset-fashion-mnist` installs the dataset on Debian and Ubuntu"
            ) from error
        damage: Exception = error
    except (EOFError, zlib.error) as error:
        damage = error
    raise AetheriaError(
        f"{file}: expected a gzip file, got a damaged one ({damage}); download it again"
    )
