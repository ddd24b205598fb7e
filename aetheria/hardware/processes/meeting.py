"""Process 0's side of the meeting: one thread that listens to all who come, and waits for none."""

import contextlib
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

from aetheria.hardware.processes.handshake import (
    MAX_BYTES,
    Hello,
    Stranger,
    decode,
    encode,
    is_proven,
    make_verdict,
    new_challenge,
    read_hello,
)
from aetheria.hardware.processes.launch import TOKEN_VARIABLE, Launch

_HELLO_SECONDS = 5.0  # for a whole introduction: a process sends it at once
_MAX_UNPROVEN = 128
_LOG_SECONDS = 1.0
_PAUSE_SECONDS = 0.1


@dataclass(eq=False)
class _Guest:
    """Who has connected; `index` says which process it has proven to be."""

    line: socket.socket
    host: str
    speak_by: float
    challenge: str = field(default_factory=new_challenge)
    received: bytes = b""
    hello: Hello | None = None


class _StrangerLog:
    """A line for who was dropped, at most one a second."""

    def __init__(self) -> None:
        self._last, self._unsaid = -_LOG_SECONDS, 0

    def add(self, host: str, reason: str) -> None:
        now = time.monotonic()
        if now - self._last < _LOG_SECONDS:
            self._unsaid += 1
            return
        others = f" (and {self._unsaid} others before)" if self._unsaid else ""
        self._last, self._unsaid = now, 0
        print(
            f"process group: dropped a connection from {host}, which is not of this run: {reason}"
            f"{others}",
            file=sys.stderr,
            flush=True,
        )


class Meeting:
    """Waits for the processes of a run.

    Args:
        launch: process 0's.
        server: listens already; who owns it closes it.
    """

    def __init__(self, launch: Launch, server: socket.socket):
        self._launch, self._server = launch, server
        self._selector = selectors.DefaultSelector()
        self._unproven: dict[_Guest, None] = {}  # in the order in which they came
        self._present: dict[int, _Guest] = {}
        self._log = _StrangerLog()
        self._doubles: dict[int, str] = {}

    @property
    def hint(self) -> str:
        """What may explain that somebody is missing."""
        return "; ".join(f"process {i} came twice, from {h}" for i, h in self._doubles.items())

    def wait(self, deadline: float) -> list[int]:
        """Returns the numbers of those who did not come in time, when all who came know them."""
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        try:
            while self._num_missing() and (now := time.monotonic()) < deadline:
                first = next(iter(self._unproven), None)  # all have the same time to speak
                until = min(deadline, first.speak_by if first else deadline)
                for key, _ in self._selector.select(max(until - now, 0.0)):
                    if key.fileobj is self._server:
                        self._accept()
                    elif key.data.line.fileno() >= 0:  # else dropped meanwhile
                        self._hear(key.data)
                self._drop_silent()
            return self._dismiss()
        finally:
            for guest in [*self._unproven, *self._present.values()]:
                guest.line.close()
            self._selector.close()

    def _num_missing(self) -> int:
        return self._launch.count - 1 - len(self._present)

    def _accept(self) -> None:
        try:
            line, address = self._server.accept()
        except OSError:
            time.sleep(_PAUSE_SECONDS)  # no file descriptor is left, for example
            return
        line.setblocking(False)
        guest = _Guest(line, str(address[0]), time.monotonic() + _HELLO_SECONDS)
        if len(self._unproven) >= _MAX_UNPROVEN:
            self._drop(next(iter(self._unproven)), "too many have not said who they are")
        self._unproven[guest] = None
        self._selector.register(line, selectors.EVENT_READ, guest)
        _send(guest, {"challenge": guest.challenge})

    def _hear(self, guest: _Guest) -> None:
        try:
            chunk = guest.line.recv(MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if guest.hello is not None:
            self._forget(guest)  # it has closed, and comes again; or it says more than it should
            return
        guest.received += chunk
        text, end, _ = guest.received.partition(b"\n")
        try:
            if not chunk:
                raise Stranger("it closed without saying who it is")
            if len(text) > MAX_BYTES:
                raise Stranger(f"it sent more than {MAX_BYTES} bytes without a line's end")
            if end:
                self._admit(guest, read_hello(decode(text)))
        except Stranger as stranger:
            self._drop(guest, str(stranger))

    def _admit(self, guest: _Guest, hello: Hello) -> None:
        """Lets a process in, or says why not."""
        count = self._launch.count
        if not is_proven(hello, self._launch.token, guest.challenge):
            reason = f"it does not know the token (--token, {TOKEN_VARIABLE})"
            self._refuse(guest, f"another token; give all the same --token or {TOKEN_VARIABLE}")
            raise Stranger(reason)
        if hello.count != count:
            self._refuse(guest, f"this run has {count} processes; start all with the same number")
            raise Stranger(f"it expects {hello.count} processes instead of {count}")
        if not 1 <= hello.index < count:
            self._refuse(guest, "this number is taken; give each process its own")
            raise Stranger(f"it takes itself for process {hello.index}")
        before = self._present.get(hello.index)
        if before is not None and _has_closed(before):
            self._forget(before)
        elif before is not None:
            self._doubles[hello.index] = f"{before.host} and {guest.host}"
            told = f"process {hello.index} is here already, from {before.host}"
            self._refuse(guest, f"{told}; give each process its own number")
            raise Stranger(f"a second process {hello.index}; the first is at {before.host}")
        del self._unproven[guest]
        guest.hello, guest.received = hello, b""
        self._present[hello.index] = guest

    def _refuse(self, guest: _Guest, reason: str) -> None:
        _send(guest, {"refused": reason})

    def _drop_silent(self) -> None:
        now = time.monotonic()
        for guest in list(self._unproven):
            if guest.speak_by > now:
                return
            self._drop(guest, f"it did not say who it is within {_HELLO_SECONDS:g} s")

    def _drop(self, guest: _Guest, reason: str) -> None:
        self._forget(guest)
        self._log.add(guest.host, reason)

    def _forget(self, guest: _Guest) -> None:
        self._selector.unregister(guest.line)
        guest.line.close()
        self._unproven.pop(guest, None)
        if guest.hello is not None:
            del self._present[guest.hello.index]

    def _dismiss(self) -> list[int]:
        missing = [i for i in range(1, self._launch.count) if i not in self._present]
        for guest in self._present.values():
            assert guest.hello is not None
            token, theirs = self._launch.token, guest.hello.challenge
            _send(guest, make_verdict(missing, token, guest.challenge, theirs))
        return missing


def _send(guest: _Guest, message: dict) -> None:
    """A message fits into an empty send buffer; who has closed does not get it."""
    with contextlib.suppress(OSError):
        guest.line.send(encode(message))


def _has_closed(guest: _Guest) -> bool:
    try:
        return guest.line.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
