"""Writes the event files that TensorBoard reads.

Format: records as in TensorFlow's TFRecord (length, checksum, content, checksum), each an `Event`
in the wire format of Protocol Buffers. Only scalars are written, so three messages are all there
is; a library for them would import TensorFlow or PyTorch where one is installed, which takes
seconds at each start.
"""

import math
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from aetheria.observe.loggers.retrying_file import RetryingFile

# First byte of a field on the wire: its number * 8 + its type (0 varint, 1 eight bytes,
# 2 length and bytes, 5 four bytes). Numbers from TensorFlow's event.proto and summary.proto.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 0x09, 0x10, 0x1A, 0x2A, 0x3A
_SUMMARY_VALUE, _VALUE_TAG, _SIMPLE_VALUE = 0x0A, 0x0A, 0x15
_SESSION_START = bytes((0x08, 1))  # SessionLog.status = START


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
        self._add(_bytes(_FILE_VERSION, b"brain.Event:2"))
        self.flush()

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values of one step, as one record: its checksum is most of the cost.

        Args:
            step: the position on the horizontal axis.
            values: tag -> value, which is kept as float32.
        """
        summary = b"".join(
            _bytes(_SUMMARY_VALUE, _bytes(_VALUE_TAG, tag.encode()) + _float32(value))
            for tag, value in values.items()
        )
        self._add(_step(step) + _bytes(_SUMMARY, summary))

    def drop_from(self, step: int) -> None:
        """Makes a viewer drop the points from `step` on, in this file and those before it."""
        self._add(_step(step) + _bytes(_SESSION_LOG, _SESSION_START))

    def flush(self) -> None:
        """Writes what is pending to the disk."""
        self._file.flush()

    def close(self) -> None:
        """Writes what is pending, and closes the file."""
        self._file.close()

    def _add(self, content: bytes) -> None:
        event = struct.pack("<Bd", _WALL_TIME, time.time()) + content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _bytes(field: int, content: bytes) -> bytes:
    return bytes((field,)) + _varint(len(content)) + content


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
