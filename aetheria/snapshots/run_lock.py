"""The lock on a run folder: one process at a time writes there, on whichever host it runs.

Two files exist while a run is under way. `run.lock` is locked through `filelock`: the kernel frees
it when the process dies, but on some network file systems such a lock holds on one host only.
Therefore `holder.json` names the process that holds the folder, and the modification time of that
file is a heartbeat. Readers of the folder need neither.
"""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout

from aetheria.errors import ExitCode, SnapshotError

LOCK, HOLDER = "run.lock", "holder.json"
HEARTBEAT_SECONDS = 10.0
# A holder on another host counts as dead when its heartbeat is older than this.
DEAD_AFTER_SECONDS = 60.0
EXPECTED_FREE = "expected a run folder that no process holds"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a run folder.

    Attributes:
        host: its host name.
        pid: its process id there.
        process_start: when that process started, as its host counts; a later process with the same
            id has another.
        since: when it locked the folder, in seconds since the epoch.
        inode: of `run.lock`; in a copy of the folder it is another, so that nobody holds the copy.
    """

    host: str
    pid: int
    process_start: str
    since: float
    inode: int

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {since})"


def refuse_if_held(folder: Path) -> None:
    """Raises SnapshotError if a living process holds the run folder; writes nothing."""
    if (holder := living_holder(folder)) is not None:
        raise _refusal(folder, holder)


def living_holder(folder: Path) -> Holder | None:
    """The living process that holds a run folder; None: nobody does. Writes nothing."""
    holder, age_seconds = _read_holder(folder)
    alive = holder is not None and _is_alive(holder, folder, age_seconds)
    return holder if alive else None


class RunLock:
    """The lock of this process on one run folder, from `acquire` to `release`."""

    def __init__(self, folder: Path):
        self._folder = folder
        # Acquired in one thread, and renewed and freed in others.
        self._lock = FileLock(folder / LOCK, thread_local=False)
        self._mine: Holder | None = None
        self._one_at_a_time = threading.RLock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="aetheria-run-lock", daemon=True)

    def acquire(self) -> list[str]:
        """Locks the folder, which must exist.

        Returns:
            A line if a dead process had held it.

        Raises:
            SnapshotError: a living process holds it; its host and id are named.
            OSError: the folder cannot be written to.
        """
        refuse_if_held(self._folder)
        notes = self._take()
        self._thread.start()
        return notes

    def release(self) -> None:
        """Frees the folder."""
        self._released.set()
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            # With a limit: a signal handler may call this while the main thread is in `check`, for
            # which the heartbeat thread then waits. That thread does nothing once nothing is held.
            self._thread.join(timeout=1.0)
        with self._one_at_a_time:
            there, _ = _read_holder(self._folder)
            if self._mine is not None and there == self._mine:
                with contextlib.suppress(OSError):
                    (self._folder / LOCK).unlink()
                    (self._folder / HOLDER).unlink()
            self._lock.release()
            self._mine = None

    def check(self) -> None:
        """Renews the heartbeat, and checks that the folder still exists and is still ours.

        A folder that is gone is made again, and a line says so. A process that was suspended for so
        long that another one took the folder over ends here, before it writes into the other's run.

        Raises:
            OSError: the folder cannot be written to.
        """
        with self._one_at_a_time:
            if self._mine is None:
                return
            there, _ = _read_holder(self._folder)
            if there == self._mine:
                os.utime(self._folder / HOLDER)
            elif there is not None:
                self._leave_to(there)
            elif _inode(self._folder) == self._mine.inode:
                self._write_holder()  # the disk had no room for it, or somebody removed it
            else:
                self._start_again()

    def _take(self) -> list[str]:
        self._lock_file()
        left, age_seconds = _read_holder(self._folder)
        if left is not None and _is_alive(left, self._folder, age_seconds):
            self._lock.release()
            raise _refusal(self._folder, left)
        (self._folder / HOLDER).unlink(missing_ok=True)
        self._mine = Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()) or "",
            since=round(time.time(), 3),
            inode=_inode(self._folder),
        )
        try:
            self._write_holder()
        except FileExistsError:  # another process came in between
            self._lock.release()
            raise _refusal(self._folder, _read_holder(self._folder)[0]) from None
        if left is None:
            return []
        return [f"{left} ended without freeing {self._folder}, which is taken over from it"]

    def _lock_file(self) -> None:
        """Asks the kernel for the lock; where it cannot lock files, `holder.json` must do.

        Raises:
            SnapshotError: the file is locked, and its holder has renewed the heartbeat.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder, age_seconds = _read_holder(self._folder)
            if holder is None or age_seconds <= DEAD_AFTER_SECONDS:
                raise _refusal(self._folder, holder) from None
            (self._folder / LOCK).unlink(missing_ok=True)
            self._lock.acquire(timeout=0)
        except NotImplementedError:
            (self._folder / LOCK).touch()
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            (self._folder / LOCK).touch()

    def _write_holder(self) -> None:
        """Writes `holder.json`, if nobody holds the folder. On a full disk the next heartbeat tries
        again.
        """
        assert self._mine is not None, "acquire comes first"
        path, text = self._folder / HOLDER, json.dumps(asdict(self._mine)).encode()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(file, text)
        except OSError:
            path.unlink()
        finally:
            os.close(file)

    def _start_again(self) -> None:
        print(
            f"{self._folder}: removed or renamed under the run; what follows, and the metrics so "
            "far, are written to a new folder of that name",
            file=sys.stderr,
            flush=True,
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock.release()
        try:
            self._take()
        except SnapshotError:
            there, _ = _read_holder(self._folder)
            self._leave_to(there)

    def _leave_to(self, other: Holder | None) -> NoReturn:
        print(
            f"{self._folder}: expected to hold this run folder still, got {other or 'another'}, "
            "which took it over while this process gave no sign of life; ending at once",
            file=sys.stderr,
            flush=True,
        )
        os._exit(ExitCode.FAILED)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # the next beat tries again
                self.check()


def _read_holder(folder: Path) -> tuple[Holder | None, float]:
    """The holder of a folder, if there is one, and the seconds since its last heartbeat."""
    try:
        # Opened first: NFS asks its server for the modification time when a file is opened.
        with (folder / HOLDER).open(encoding="utf-8") as file:
            age_seconds = time.time() - os.fstat(file.fileno()).st_mtime
            return Holder(**json.load(file)), age_seconds
    except (OSError, ValueError, TypeError):
        return None, 0.0


def _is_alive(holder: Holder, folder: Path, age_seconds: float) -> bool:
    if holder.inode != _inode(folder):
        return False
    if holder.host == socket.gethostname():
        start = _process_start(holder.pid)
        return start is not None and start == holder.process_start
    return age_seconds <= DEAD_AFTER_SECONDS


def _process_start(pid: int) -> str | None:
    """When a process of this host started, in no particular unit; None: there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name before the bracket may contain any character, even spaces.
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else f"{boot} {numbers[18]}"
    except FileNotFoundError:
        if sys.platform == "linux":
            return None
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip() or None


def _inode(folder: Path) -> int:
    try:
        return (folder / LOCK).stat().st_ino
    except OSError:
        return -1


def _refusal(folder: Path, holder: Holder | None) -> SnapshotError:
    if holder is None:
        return SnapshotError(
            f"{folder}: {EXPECTED_FREE}, got one held by a process that is not visible here; wait "
            "for it, or choose another --workdir"
        )
    wait = f"wait for it, stop it (kill {holder.pid}), or choose another --workdir"
    if holder.host != socket.gethostname():
        wait = (
            "wait for it, or choose another --workdir; without a sign of life from it for "
            f"{DEAD_AFTER_SECONDS:.0f} s it counts as dead"
        )
    return SnapshotError(f"{folder}: {EXPECTED_FREE}, got one held by {holder}; {wait}")
