"""Ends a run that makes no progress any more, and reports what each process was doing."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aetheria.engine.heartbeat import Heartbeat
from aetheria.engine.interfaces import Peers

_CHECKS_PER_TIMEOUT = 10
_MAX_CHECK_SECONDS = 1.0
_REPORT_SECONDS = 10.0  # how long process 0 waits for the reports of the others
_POLL_SECONDS = 0.1
_HANG = "hang"


class Watchdog:
    """A thread that watches the engine's heartbeat, and ends all processes if it stops.

    Starting and compiling have no timeout. While one process does either, the others wait for it
    and are not ended; nor is a process that the operating system has stopped.

    Args:
        heartbeat: the engine's.
        seconds: how long a run may make no progress; 0: for ever.
        folder: where the stacks of the threads are written, as `hang_rank0.txt` and so on.
        peers: the processes of the run.
        leave: ends this process, given a report of what happened; does not return.
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
        self._check_seconds = min(_MAX_CHECK_SECONDS, seconds / _CHECKS_PER_TIMEOUT)
        self._over = threading.Event()
        self._published: bool | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches as long as the context lasts."""
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
        last_count, checked_at = -1, time.monotonic()
        progress_at = checked_at
        while not self._over.wait(self._check_seconds):
            now = time.monotonic()
            # If this thread was late itself, the machine was busy or the process was stopped.
            progress_at += max(0.0, now - checked_at - 2 * self._check_seconds)
            checked_at = now
            self._publish_no_timeout()
            if self._heartbeat.count != last_count or self._heartbeat.no_timeout:
                last_count, progress_at = self._heartbeat.count, now
            idle_seconds = now - progress_at
            if self._peers.count > 1 and self._peers.get(_HANG):
                self._end(idle_seconds)
                return
            if idle_seconds > self._seconds / 2 and self._another_has_no_timeout():
                progress_at = now
            elif idle_seconds > self._seconds:
                self._peers.put(_HANG, self._peers.index)
                self._end(idle_seconds)
                return

    def _publish_no_timeout(self) -> None:
        """Tells the other processes when a phase without a timeout begins or ends here."""
        if self._heartbeat.no_timeout is not self._published:
            self._published = self._heartbeat.no_timeout
            self._peers.put(f"no_timeout/{self._peers.index}", self._published, replace=True)

    def _another_has_no_timeout(self) -> bool:
        others = (i for i in range(self._peers.count) if i != self._peers.index)
        # A process that has published nothing has not started to watch yet.
        return any(self._peers.get(f"no_timeout/{i}") is not False for i in others)

    def _end(self, idle_seconds: float) -> None:
        """Writes the stacks, reports, and ends this process."""
        peers, heartbeat = self._peers, self._heartbeat
        report = (
            f"{heartbeat.doing} after step {heartbeat.step}, no progress for {idle_seconds:.0f} s"
        )
        path = self._folder / f"hang_rank{peers.index}.txt"
        with contextlib.suppress(OSError), path.open("w", encoding="utf-8") as file:
            file.write(f"process {peers.index} of {peers.count}: {report}\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        peers.put(f"{_HANG}/{peers.index}", report)
        lines = [f"process {peers.index} of {peers.count}: {report}; stacks in {path}"]
        if peers.index == 0:  # it serves the shared store, so it must end last
            lines += self._reports_of_others()
        print(*lines, sep="\n", file=sys.stderr, flush=True)
        self._leave("; ".join(lines))

    def _reports_of_others(self) -> list[str]:
        deadline, lines = time.monotonic() + _REPORT_SECONDS, []
        for index in range(1, self._peers.count):
            report = self._peers.get(f"{_HANG}/{index}")
            while not report and time.monotonic() <= deadline:
                time.sleep(_POLL_SECONDS)
                report = self._peers.get(f"{_HANG}/{index}")
            report = report or "did not respond; read its log"
            lines.append(f"process {index} of {self._peers.count}: {report}")
        return lines
