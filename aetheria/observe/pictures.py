"""Pictures as bytes and as PNG, with NumPy alone. Knows no probe and no logger."""

import struct
import zlib
from typing import Any

import numpy as np


def is_pictures(array: Any) -> bool:
    """Whether an array is pictures [count, height, width, 1 or 3].

    >>> is_pictures(np.zeros((2, 8, 8, 1))), is_pictures(np.zeros((2, 64)))
    (True, False)
    """
    if not isinstance(array, np.ndarray):
        return False
    return array.ndim == 4 and array.shape[-1] in (1, 3) and 0 not in array.shape


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Makes pixels u8: as they are, or of [0, 1]; standardized ones are stretched from the least to
    the most.

    >>> as_bytes(np.array([0.0, 0.5, 1.0])).tolist(), as_bytes(np.array([-2.0, 2.0])).tolist()
    ([0, 128, 255], [0, 255])
    """
    if pixels.dtype == np.uint8:
        return pixels
    wide = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = min(float(wide.min()), 0.0), max(float(wide.max()), 1.0)
    if low < 0.0 or high > 1.0:
        low, high = float(wide.min()), float(wide.max())
    return np.round((wide - low) / max(high - low, 1e-12) * 255).astype(np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes a picture, u8 [height, width, 1 or 3].

    Source: the PNG specification, third edition, sections 5 and 11.2.
    """
    height, width, channels = pixels.shape
    gray, color = 0, 2
    header = (width, height, 8, gray if channels == 1 else color, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each after its filter, here none
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", *header)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
