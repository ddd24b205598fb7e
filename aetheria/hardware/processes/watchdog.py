"""Ends a run that does nothing any more, and says where each process stands."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aetheria.engine.heartbeat import Heartbeat
from aetheria.engine.interfaces import Peers

_TICKS = 10  # looks in the time that a run may stand still
_LONGEST_TICK = 1.0  # seconds
_LAST_WORDS_SECONDS = 10.0
_HANG = "hang"


class Watchdog:
    """A thread that looks at what the engine does, and leaves with all processes when it has done
    nothing for too long.

    What takes as long as it takes, starting and compiling, is waited for, here and on any other
    process: who is done earlier stands still meanwhile. So is a process that was itself stopped.

    Args:
        heartbeat: the engine's.
        seconds: that it may stand still; 0: for ever.
        folder: for the stacks, `hang_rank0.txt`.
        peers: the processes of the run.
        leave: ends this process, with what happened in words; does not return.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        *,
        seconds: float,
        folder: Path,
        peers: Peers,
        leave: Callable[[str], None],
    ):
        self._heartbeat, self._seconds, self._folder = heartbeat, seconds, folder
        self._peers, self._leave = peers, leave
        self._tick = min(_LONGEST_TICK, seconds / _TICKS)
        self._over = threading.Event()
        self._told: Any = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches for the time of a run."""
        thread = threading.Thread(target=self._watch, name="aetheria-watchdog", daemon=True)
        if self._seconds:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            if self._seconds:
                thread.join()

    def _watch(self) -> None:
        seen, looked = -1, time.monotonic()
        moved = looked
        while not self._over.wait(self._tick):
            now = time.monotonic()
            # This thread was late itself: the machine, or whoever stopped the process, did it.
            moved += max(0.0, now - looked - 2 * self._tick)
            looked = now
            self._tell()
            if self._heartbeat.count != seen or self._heartbeat.no_timeout:
                seen, moved = self._heartbeat.count, now
            stands = now - moved
            if self._peers.count > 1 and self._peers.get(_HANG):
                self._end(stands)
                return
            if stands > self._seconds / 2 and self._someone_takes_long():
                moved = now
            elif stands > self._seconds:
                self._peers.put(_HANG, self._peers.index)
                self._end(stands)
                return

    def _tell(self) -> None:
        """Says when something begins, or ends, that takes as long as it takes."""
        if self._heartbeat.no_timeout is not self._told:
            self._told = self._heartbeat.no_timeout
            self._peers.put(f"no_timeout/{self._peers.index}", self._told, replace=True)

    def _someone_takes_long(self) -> bool:
        others = (i for i in range(self._peers.count) if i != self._peers.index)
        # None: not even begun.
        return any(self._peers.get(f"no_timeout/{i}") is not False for i in others)

    def _end(self, stands: float) -> None:
        peers, heartbeat = self._peers, self._heartbeat
        words = f"{heartbeat.doing} after step {heartbeat.step}, nothing done for {stands:.0f} s"
        path = self._folder / f"hang_rank{peers.index}.txt"
        with contextlib.suppress(OSError), path.open("w", encoding="utf-8") as file:
            file.write(f"process {peers.index} of {peers.count}: {words}\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        peers.put(f"{_HANG}/{peers.index}", words)
        lines = [f"process {peers.index} of {peers.count}: {words}; stacks in {path}"]
        if peers.index == 0:  # it serves the board, so it leaves last
            lines += self._others_words()
        print(*lines, sep="\n", file=sys.stderr, flush=True)
        self._leave("; ".join(lines))

    def _others_words(self) -> list[str]:
        deadline, lines = time.monotonic() + _LAST_WORDS_SECONDS, []
        for index in range(1, self._peers.count):
            while not (words := self._peers.get(f"{_HANG}/{index}")):
                if time.monotonic() > deadline:
                    words = "gave no sign of life; look at its log"
                    break
                time.sleep(0.1)
            lines.append(f"process {index} of {self._peers.count}: {words}")
        return lines
