"""The processes of one run, as they exchange values. No device is involved."""

import contextlib
import json
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from aetheria.config.json_types import JsonValue
from aetheria.hardware.processes.address import split_address
from aetheria.hardware.processes.bind_address import open_listener
from aetheria.hardware.processes.launch import Launch

_EXIT_REASON_SECONDS = 5.0
_KEPT_MESSAGES = 1000  # no process is that many behind: each waits for the others' messages
# A peer may evaluate or save for long. If it is dead, the framework's heartbeat finds out.
_NO_TIMEOUT_MS = 7 * 24 * 3600 * 1000


class KeyValueStore(Protocol):
    """Texts by key, kept by process 0 for all; a call raises RuntimeError if process 0 is gone."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_try_get(self, key: str) -> str: ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...

    def key_value_delete(self, key: str) -> None: ...


class ProcessGroup:
    """Peers that exchange values through the coordinator's key-value store.

    The devices are not used, so an exchange does not wait for the steps that they compute.

    Args:
        launch: this process among the others.
        store: the key-value store.
        bind_address: on process 0, `host:port` of the network interface at which the others reach
            it; None on the others.

    Attributes:
        index: the number of this process, from 0.
        count: the number of processes.
        host: the host of process 0.
    """

    def __init__(self, launch: Launch, store: KeyValueStore, bind_address: str | None):
        self.index, self.count = launch.index, launch.count
        self.host, _ = split_address(launch.coordinator)
        self._store, self._bind_address = store, bind_address
        self._num_exchanges = 0

    def broadcast(self, value: JsonValue) -> Any:
        """Returns process 0's value on every process; all processes call it."""
        return self._exchange(value, [0])[0]

    def all_gather(self, value: JsonValue) -> list[Any]:
        """Returns every process's value, in their order; all processes call it."""
        return self._exchange(value, range(self.count))

    def put(self, key: str, value: JsonValue, *, replace: bool = False) -> None:
        """Puts a value into the shared store; if the key has one, it stays unless `replace`.

        It may be called from any thread, and does nothing if the coordinator is gone.
        """
        with contextlib.suppress(RuntimeError):
            self._store.key_value_set(_shared(key), json.dumps(value), replace)

    def get(self, key: str) -> Any:
        """The value of a key in the shared store; None if there is none."""
        try:
            return json.loads(self._store.key_value_try_get(_shared(key)))
        except RuntimeError:
            return None

    def wait_for_key(self, key: str, timeout_ms: int = _NO_TIMEOUT_MS) -> Any:
        """The value of a key in the shared store, once there is one.

        Raises:
            RuntimeError: there is none after the timeout, or the coordinator is gone.
        """
        return json.loads(self._store.blocking_key_value_get(_shared(key), timeout_ms))

    def exchange_exit_reasons(self, mine: str) -> list[str | None]:
        """Returns why each process ends; None for one that does not say so within seconds.

        Args:
            mine: why this process ends.
        """
        self.put(f"exit_reason/{self.index}", mine)
        deadline = time.monotonic() + _EXIT_REASON_SECONDS
        reasons: list[str | None] = []
        for index in range(self.count):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                reasons.append(self.wait_for_key(f"exit_reason/{index}", left_ms))
            except RuntimeError:
                reasons.append(mine if index == self.index else None)
        return reasons

    def listen(self) -> socket.socket:
        """Opens a socket at a free port of process 0, which alone may call this."""
        assert self._bind_address is not None
        host, _, _ = self._bind_address.rpartition(":")
        return open_listener(f"{host}:0")

    def _exchange(self, value: JsonValue, senders: Sequence[int]) -> list[Any]:
        """Returns the values of the senders; every process counts the exchange."""
        key = f"aetheria/{self._num_exchanges}"
        if self.index in senders:
            self._store.key_value_set(f"{key}/{self.index}", json.dumps(value))
        values = [
            json.loads(self._store.blocking_key_value_get(f"{key}/{sender}", _NO_TIMEOUT_MS))
            for sender in senders
        ]
        if self.index == 0 and self._num_exchanges >= _KEPT_MESSAGES:
            self._store.key_value_delete(f"aetheria/{self._num_exchanges - _KEPT_MESSAGES}")
        self._num_exchanges += 1
        return values


def _shared(key: str) -> str:
    return f"aetheria/shared/{key}"
