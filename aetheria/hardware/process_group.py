"""The processes of one run: how they join, and what they tell each other."""

import contextlib
import json
import time
from typing import Any

from aetheria.hardware.launch import Launch
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

    Raises:
        HardwareError: somebody did not come in time.
    """

    def __init__(self, launch: Launch, *, join_timeout: float, heartbeat_timeout: float):
        meet(launch, join_timeout)
        import jax

        # It would take SIGTERM away from us; see `aetheria.hardware.shared_stop`.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            launch.coordinator,
            launch.count,
            launch.index,
            initialization_timeout=int(join_timeout),
            heartbeat_timeout_seconds=int(heartbeat_timeout),
        )
        # jax starts its devices when they are first asked for, and then waits for all processes:
        # here all of them ask; later, only one of them might.
        jax.devices()
        # jax has no public door to its key-value store; Orbax uses this one too (jax 0.10 to 0.12).
        from jax._src import distributed

        self.index, self.count = launch.index, launch.count
        self.host = launch.coordinator.rpartition(":")[0]
        self._store: Any = distributed.global_state.client
        self._number = 0

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
