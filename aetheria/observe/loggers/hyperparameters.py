"""The messages by which TensorBoard's HParams tab knows the hyperparameters of a run.

Source: `api.proto` and `plugin_data.proto` of TensorBoard's plugin `hparams`, and `struct.proto` of
Protocol Buffers.
"""

import struct
from collections.abc import Mapping

from aetheria.observe.loggers.event_file import encode_bytes

SESSION_START = "_hparams_/session_start_info"  # the tags that the plugin looks for
SESSION_END = "_hparams_/session_end_info"
_START_INFO, _END_INFO = 0x1A, 0x22  # of HParamsPluginData
_HPARAMS, _GROUP_NAME, _START_SECONDS = 0x0A, 0x22, 0x29  # of SessionStartInfo
_STATUS, _END_SECONDS = 0x08, 0x11  # of SessionEndInfo
_SUCCESS, _FAILURE = 1, 2
_KEY, _VALUE = 0x0A, 0x12  # of an entry of a map
_NUMBER, _TEXT, _BOOL = 0x11, 0x1A, 0x20  # of Value


def session_start(values: Mapping[str, str | float | bool], name: str, started_at: float) -> bytes:
    """The message of a run that starts.

    Args:
        values: the hyperparameters.
        name: the run's.
        started_at: in seconds since the epoch of Unix.
    """
    info = b"".join(
        encode_bytes(
            _HPARAMS, encode_bytes(_KEY, key.encode()) + encode_bytes(_VALUE, _value(value))
        )
        for key, value in values.items()
    )
    info += encode_bytes(_GROUP_NAME, name.encode())
    info += struct.pack("<Bd", _START_SECONDS, started_at)
    return encode_bytes(_START_INFO, info)


def session_end(succeeded: bool, ended_at: float) -> bytes:
    """The message of a run that ended.

    Args:
        succeeded: whether it completed.
        ended_at: in seconds since the epoch of Unix.
    """
    info = bytes((_STATUS, _SUCCESS if succeeded else _FAILURE))
    return encode_bytes(_END_INFO, info + struct.pack("<Bd", _END_SECONDS, ended_at))


def _value(value: str | float | bool) -> bytes:
    match value:
        case bool():
            return bytes((_BOOL, value))
        case str():
            return encode_bytes(_TEXT, value.encode())
        case _:
            return struct.pack("<Bd", _NUMBER, value)
