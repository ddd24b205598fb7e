"""The processes of one run, as they talk to each other. Knows no device."""

import contextlib
import json
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from aetheria.hardware.processes.address import split_address
from aetheria.hardware.processes.launch import Launch
from aetheria.hardware.processes.meeting_address import open_listener

_LAST_WORDS_SECONDS = 5.0
_KEPT_MESSAGES = 1000  # nobody is that many behind: reports are waited for in between
# A peer may be evaluating or saving for long; that it is dead is for the heartbeat to find out.
_FOREVER_MS = 7 * 24 * 3600 * 1000


class KeyValueStore(Protocol):
    """Texts by key, on process 0 for all; a call raises RuntimeError when process 0 is gone."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_try_get(self, key: str) -> str: ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...

    def key_value_delete(self, key: str) -> None: ...


class ProcessGroup:
    """Peers that speak through the coordinator's key-value store, not through the devices: a word
    of theirs waits for no step.

    Args:
        launch: which of how many this process is.
        store: what they speak through.
        bind_address: on process 0, `host:port` of the interface at which it is to be reached.

    Attributes:
        index: this process's number.
        count: how many there are.
        host: where process 0 is to be reached.
    """

    def __init__(self, launch: Launch, store: KeyValueStore, bind_address: str | None):
        self.index, self.count = launch.index, launch.count
        self.host, _ = split_address(launch.coordinator)
        self._store, self._bind_address = store, bind_address
        self._number = 0

    def broadcast(self, value: Any) -> Any:
        """Process 0's JSON value, on every process."""
        return self._exchange(value, [0])[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Every process's JSON value, on every process, in their order."""
        return self._exchange(value, range(self.count))

    def put(self, key: str, value: Any, *, replace: bool = False) -> None:
        """Puts a JSON value up for all; the first of a key stays, but for `replace`. From any
        thread; does nothing when the coordinator is gone.
        """
        with contextlib.suppress(RuntimeError):
            self._store.key_value_set(f"aetheria/board/{key}", json.dumps(value), replace)

    def get(self, key: str) -> Any:
        """What is put up; None if nothing is."""
        try:
            return json.loads(self._store.key_value_try_get(f"aetheria/board/{key}"))
        except RuntimeError:
            return None

    def wait_for_key(self, key: str, timeout_ms: int = _FOREVER_MS) -> Any:
        """The same, once something is; raises RuntimeError if nothing is by then."""
        return json.loads(self._store.blocking_key_value_get(f"aetheria/board/{key}", timeout_ms))

    def exchange_exit_reasons(self, mine: str) -> list[str | None]:
        """What ended each process; None for one that is silent."""
        self.put(f"left/{self.index}", mine)
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        words: list[str | None] = []
        for index in range(self.count):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                words.append(self.wait_for_key(f"left/{index}", left_ms))
            except RuntimeError:
                words.append(mine if index == self.index else None)
        return words

    def listen(self) -> socket.socket:
        """Opens a socket at a free port where this process, number 0, is to be reached."""
        assert self._bind_address is not None
        host, _, _ = self._bind_address.rpartition(":")
        return open_listener(f"{host}:0")

    def _exchange(self, value: Any, speakers: Sequence[int]) -> list[Any]:
        key = f"aetheria/{self._number}"
        if self.index in speakers:
            self._store.key_value_set(f"{key}/{self.index}", json.dumps(value))
        values = [
            json.loads(self._store.blocking_key_value_get(f"{key}/{speaker}", _FOREVER_MS))
            for speaker in speakers
        ]
        if self.index == 0 and self._number >= _KEPT_MESSAGES:
            self._store.key_value_delete(f"aetheria/{self._number - _KEPT_MESSAGES}")
        self._number += 1
        return values
