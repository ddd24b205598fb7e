"""Images from files in the IDX format, held as bytes and read as float32."""

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

_SYSTEM_FOLDER = "/usr/share/datasets/fashion-mnist"  # of Debian's package
_UNSIGNED_BYTE = 8  # the IDX format's code of the dtype


class ImageSource:
    """Grey images in memory, a byte a pixel: inputs f32 [height, width, 1] in [0, 1], labels i32.

    Args:
        images: u8 [num_examples, height, width].
        labels: u8 [num_examples].

    Raises:
        AetheriaError: no images, or not as many labels.
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
    """Fashion-MNIST: 60,000 images of clothes to train on, 10,000 to evaluate on; inputs f32
    [28, 28, 1] in [0, 1], labels i32 in 0..9.

    Args:
        folder: holds the four files `train-images-idx3-ubyte.gz` and so on; None: the folder
            `fashion-mnist` in what the environment variable AETHERIA_DATA names, if it is there,
            else where Debian's package `dataset-fashion-mnist` puts them.
        num_train: the first so many of the training images alone.
        num_eval: the first so many of the evaluation images alone.

    Raises:
        AetheriaError: a file is missing, damaged, or not in the IDX format.

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


def _read_split(folder: Path, prefix: str, argument: str, most: int | None) -> ImageSource:
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", num_dims=3)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", num_dims=1)
    if most is not None and not 0 < most <= len(images):
        raise AetheriaError(
            f"data_params.{argument}: expected a number from 1 to {len(images)}, got {most}; "
            "leave it out for all"
        )
    return ImageSource(images[:most], labels[:most])


def read_idx(file: Path, num_dims: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes: u8, with `num_dims` dims.

    The header is two zero bytes, a code for the dtype, the number of dims, and the size of each as
    a big-endian u32.

    Raises:
        AetheriaError: the file is missing, damaged, of another dtype or number of dims, or not as
            long as its header says.
    """
    content = _unzip(file)
    magic = bytes([0, 0, _UNSIGNED_BYTE, num_dims])
    if content[:4] != magic:
        raise AetheriaError(
            f"{file}: expected an IDX file of bytes with {num_dims} dims (it begins with "
            f"{magic.hex()}), got one that begins with {content[:4].hex()!r}; get it again"
        )
    begin = 4 + 4 * num_dims
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, begin, 4)]
    if len(content) != begin + math.prod(shape):
        raise AetheriaError(
            f"{file}: expected {begin + math.prod(shape)} bytes, as its header says ({shape}), got "
            f"{len(content)}; get it again"
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
    raise AetheriaError(f"{file}: expected a gzip file, got a damaged one ({damage}); get it again")
