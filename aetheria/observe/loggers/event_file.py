"""Writes the event files that TensorBoard reads.

Format: records as in TensorFlow's TFRecord (length, checksum, content, checksum), each an `Event`
in the wire format of Protocol Buffers. Only scalars, histograms, pictures, text and hyperparameters
are written, so a few messages are all there is; a library for them would import TensorFlow or
PyTorch where one is installed, which takes seconds at each start.
"""

import math
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aetheria.observe.loggers.retrying_file import RetryingFile

# First byte of a field on the wire: its number * 8 + its type (0 varint, 1 eight bytes,
# 2 length and bytes, 5 four bytes). Numbers from TensorFlow's event.proto and summary.proto.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 0x09, 0x10, 0x1A, 0x2A, 0x3A
_SUMMARY_VALUE, _VALUE_TAG, _SIMPLE_VALUE = 0x0A, 0x0A, 0x15
_SESSION_START = bytes((0x08, 1))  # SessionLog.status = START
# Of a value that a plugin of TensorBoard shows: TensorProto, SummaryMetadata and PluginData.
_TENSOR, _METADATA, _PLUGIN_DATA, _PLUGIN_NAME, _PLUGIN_CONTENT = 0x42, 0x4A, 0x0A, 0x0A, 0x12
_DATA_CLASS = 0x20  # of SummaryMetadata
_IS_TENSOR, _IS_BLOBS = bytes((_DATA_CLASS, 2)), bytes((_DATA_CLASS, 3))
_SCALAR_SHAPE = bytes((0x12, 0))
_TENSOR_SHAPE, _DIM, _SIZE, _TENSOR_CONTENT = 0x12, 0x12, 0x08, 0x22
_DOUBLE = bytes((0x08, 2))
_STRINGS, _STRING = bytes((0x08, 7)), 0x42
_NO_TENSOR = bytes((0x08, 1)) + _SCALAR_SHAPE + struct.pack("<Bf", 0x2D, 0.0)


def _crc_table() -> list[int]:
    """For each byte, what it makes of a CRC-32C (Castagnoli, polynomial 0x82F63B78 reflected)."""
    table: list[int] = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


class EventFile:
    """One event file, with the header that TensorBoard expects.

    Args:
        path: the file; it and its folder are created.
    """

    def __init__(self, path: Path):
        self._file = RetryingFile(path)
        self._add(encode_bytes(_FILE_VERSION, b"brain.Event:2"))
        self.flush()

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values of one step, as one record: its checksum is most of the cost.

        Args:
            step: the position on the horizontal axis.
            values: tag -> value, which is kept as float32.
        """
        summary = b"".join(
            encode_bytes(_SUMMARY_VALUE, encode_bytes(_VALUE_TAG, tag.encode()) + _float32(value))
            for tag, value in values.items()
        )
        self._add(_step(step) + encode_bytes(_SUMMARY, summary))

    def add_text(self, step: int, tag: str, text: str) -> None:
        """Appends a text, which TensorBoard reads as Markdown."""
        tensor = _STRINGS + _SCALAR_SHAPE + encode_bytes(_STRING, text.encode())
        self._add_value(step, tag, "text", tensor, b"")

    def add_histograms(
        self, step: int, histograms: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    ) -> None:
        """Appends histograms: tag -> the edges of the bins, and the count in each."""
        for tag, (edges, counts) in histograms.items():
            rows = zip(edges[:-1], edges[1:], counts, strict=True)
            content = b"".join(struct.pack("<3d", *row) for row in rows)
            shape = _tensor_shape(len(counts), 3)
            tensor = _DOUBLE + shape + encode_bytes(_TENSOR_CONTENT, content)
            self._add_value(step, tag, "histograms", tensor, b"")

    def add_images(
        self, step: int, tag: str, size: tuple[int, int], images: Sequence[bytes]
    ) -> None:
        """Appends pictures that are shown beside each other.

        Args:
            step: the position on the slider.
            tag: of all of them.
            size: width and height in pixels.
            images: PNG files.
        """
        strings = [*(str(length).encode() for length in size), *images]
        values = b"".join(encode_bytes(_STRING, each) for each in strings)
        tensor = _STRINGS + _tensor_shape(len(strings)) + values
        self._add_value(step, tag, "images", tensor, b"", _IS_BLOBS)

    def add_hyperparameters(self, step: int, tag: str, content: bytes) -> None:
        """Appends a message that `aetheria.observe.loggers.hyperparameters` made."""
        self._add_value(step, tag, "hparams", _NO_TENSOR, content)

    def drop_from(self, step: int) -> None:
        """Makes a viewer drop the points from `step` on, in this file and those before it."""
        self._add(_step(step) + encode_bytes(_SESSION_LOG, _SESSION_START))

    def flush(self) -> None:
        """Writes what is pending to the disk."""
        self._file.flush()

    def close(self) -> None:
        """Writes what is pending, and closes the file."""
        self._file.close()

    def _add_value(
        self,
        step: int,
        tag: str,
        plugin: str,
        tensor: bytes,
        content: bytes,
        data_class: bytes = _IS_TENSOR,
    ) -> None:
        data = encode_bytes(_PLUGIN_NAME, plugin.encode()) + encode_bytes(_PLUGIN_CONTENT, content)
        metadata = encode_bytes(_PLUGIN_DATA, data) + data_class
        value = encode_bytes(_VALUE_TAG, tag.encode())
        value += encode_bytes(_TENSOR, tensor) + encode_bytes(_METADATA, metadata)
        self._add(_step(step) + encode_bytes(_SUMMARY, encode_bytes(_SUMMARY_VALUE, value)))

    def _add(self, content: bytes) -> None:
        event = struct.pack("<Bd", _WALL_TIME, time.time()) + content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def encode_bytes(field: int, content: bytes) -> bytes:
    """A field with text or a message.

    Args:
        field: the first byte of the field.
        content: the text or the encoded message.
    """
    return bytes((field,)) + _varint(len(content)) + content


def _tensor_shape(*dims: int) -> bytes:
    sizes = (encode_bytes(_DIM, bytes((_SIZE,)) + _varint(size)) for size in dims)
    return encode_bytes(_TENSOR_SHAPE, b"".join(sizes))


def _step(step: int) -> bytes:
    return bytes((_STEP,)) + _varint(step)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<Bf", _SIMPLE_VALUE, value)
    except OverflowError:  # finite, but not as float32
        return struct.pack("<Bf", _SIMPLE_VALUE, math.copysign(math.inf, value))


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that another byte follows."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _checksum(content: bytes) -> bytes:
    """The masked CRC-32C of TFRecord."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
