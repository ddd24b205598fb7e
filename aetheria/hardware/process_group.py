"""The processes of one run: how they join, and what they tell each other."""

import contextlib
import json
import os
import socket
import time
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

from aetheria.address import split_address
from aetheria.hardware.launch import Launch
from aetheria.hardware.launch_variables import LauncherVariables
from aetheria.hardware.local_devices import choose_local_devices, count_visible_gpus
from aetheria.hardware.meeting_address import find_bind_address, for_jax, open_listener
from aetheria.hardware.rendezvous import meet

_LAST_WORDS_SECONDS = 5.0
_KEPT_MESSAGES = 1000  # nobody is that many behind: reports are waited for in between
# A peer may be evaluating or saving for long; that it is dead is for the heartbeat to find out.
_FOREVER_MS = 7 * 24 * 3600 * 1000


class ProcessGroup:
    """Peers that speak through the coordinator's key-value store, not through the devices: a word
    of theirs waits for no step.

    Args:
        launch: which of how many this process is.
        join_timeout: seconds to wait for all to come.
        heartbeat_timeout: seconds after which a silent process counts as dead, and ends the others.

    Attributes:
        index: this process's number.
        count: how many there are.
        host: where process 0 is to be reached.
        device_ids: the accelerators of this process among those it can see; None: all.

    Raises:
        HardwareError: somebody did not come in time, or the machine's accelerators cannot be shared
            by its processes.
    """

    def __init__(self, launch: Launch, *, join_timeout: float, heartbeat_timeout: float):
        self.index, self.count = launch.index, launch.count
        self.host, _ = split_address(launch.coordinator)
        self.device_ids = choose_local_devices(
            launch,
            os.environ,
            num_gpus=count_visible_gpus(os.environ),
            uses_gpu=_uses_gpu(),
        )
        # Read here, so that a malformed one is a line; JAX reads it after the meeting.
        LauncherVariables(os.environ, "JAX").optional_number("JAX_PARTITION_INDEX")
        self._bind_address = None
        if self.index == 0:
            self._bind_address = find_bind_address(launch, os.environ, join_timeout)
        meet(launch, join_timeout, self._bind_address)
        self._join_jax(launch, join_timeout, heartbeat_timeout)
        # jax has no public door to its key-value store; Orbax uses this one too (jax 0.10 to 0.12).
        from jax._src import distributed

        self._store: Any = distributed.global_state.client
        self._number = 0

    def describe_devices(self, mine: str) -> list[str]:
        """A line for each process: where it is and what it computes on. All processes call it.

        Args:
            mine: this process's devices.
        """
        # A number counts the devices that the process can see.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible and mine.startswith("cuda:"):
            mine = f"{mine} of CUDA_VISIBLE_DEVICES={visible[:100]}"
        places = self.gather([socket.gethostname(), mine])
        return [
            f"process {index} of {self.count} on host {host}: {devices}"
            for index, (host, devices) in enumerate(places)
        ]

    def share(self, value: Any) -> Any:
        """Process 0's JSON value, on every process."""
        return self._exchange(value, [0])[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's JSON value, on every process, in their order."""
        return self._exchange(value, range(self.count))

    def post(self, key: str, value: Any, *, replace: bool = False) -> None:
        """Puts a JSON value up for all; the first of a key stays, but for `replace`. From any
        thread; does nothing when the coordinator is gone.
        """
        with contextlib.suppress(RuntimeError):
            self._store.key_value_set(f"aetheria/board/{key}", json.dumps(value), replace)

    def look(self, key: str) -> Any:
        """What is put up; None if nothing is."""
        try:
            return json.loads(self._store.key_value_try_get(f"aetheria/board/{key}"))
        except RuntimeError:
            return None

    def await_post(self, key: str, timeout_ms: int = _FOREVER_MS) -> Any:
        """The same, once something is; raises RuntimeError if nothing is by then."""
        return json.loads(self._store.blocking_key_value_get(f"aetheria/board/{key}", timeout_ms))

    def last_words(self, mine: str) -> list[str | None]:
        """What ended each process; None for one that is silent."""
        self.post(f"left/{self.index}", mine)
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        words: list[str | None] = []
        for index in range(self.count):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                words.append(self.await_post(f"left/{index}", left_ms))
            except RuntimeError:
                words.append(mine if index == self.index else None)
        return words

    def listen(self) -> socket.socket:
        """Opens a socket at a free port where this process, number 0, is to be reached."""
        assert self._bind_address is not None
        host, _, _ = self._bind_address.rpartition(":")
        return open_listener(f"{host}:0")

    def _join_jax(self, launch: Launch, join_timeout: float, heartbeat_timeout: float) -> None:
        import jax

        # It would take SIGTERM away from us; see `aetheria.hardware.shared_stop`.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            launch.coordinator,
            launch.count,
            launch.index,
            local_device_ids=self.device_ids,
            # JAX would choose other devices: see `local_devices`.
            cluster_detection_method="deactivate",
            initialization_timeout=max(1, int(join_timeout)),
            heartbeat_timeout_seconds=max(1, int(heartbeat_timeout)),
            coordinator_bind_address=self._bind_address and for_jax(self._bind_address),
        )
        # jax starts its devices when they are first asked for, and then waits for all processes:
        # here all of them ask; later, only one of them might.
        jax.devices()

    def _exchange(self, value: Any, speakers: Any) -> list[Any]:
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


def _uses_gpu() -> bool:
    """Whether JAX will look for a GPU: its platforms, or a plugin that is installed, say so."""
    import jax

    if platforms := jax.config.values["jax_platforms"]:
        return not {"cuda", "rocm", "gpu"}.isdisjoint(platforms.split(","))
    plugins = [plugin.value for plugin in entry_points(group="jax_plugins")]
    with contextlib.suppress(ImportError):
        plugins += [module.name for module in iter_modules(import_module("jax_plugins").__path__)]
    return any("cuda" in name or "rocm" in name for name in plugins)
