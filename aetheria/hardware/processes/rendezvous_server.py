"""Process 0's side of the rendezvous: one thread serves all connections, and waits for none."""

import contextlib
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

from aetheria.config.json_types import JsonObject
from aetheria.hardware.processes.handshake import (
    MAX_BYTES,
    HandshakeError,
    Hello,
    decode,
    encode,
    is_proven,
    make_verdict,
    new_challenge,
    read_hello,
)
from aetheria.hardware.processes.launch import TOKEN_VARIABLE, Launch

_HELLO_SECONDS = 5.0  # for a whole introduction, which a process sends at once
_MAX_UNPROVEN = 128  # connections
_LOG_SECONDS = 1.0
_PAUSE_SECONDS = 0.1


@dataclass(eq=False)
class _Connection:
    """A connection to process 0.

    Attributes:
        sock: connected, non-blocking.
        host: the host of the other side, for messages.
        hello_deadline: when its introduction must be complete.
        challenge: what the other side has to digest with the token.
        received: the bytes of an incomplete message.
        hello: its introduction, once it has proven to know the token; None: it has not yet.
    """

    sock: socket.socket
    host: str
    hello_deadline: float
    challenge: str = field(default_factory=new_challenge)
    received: bytes = b""
    hello: Hello | None = None


class _DropLog:
    """Prints dropped connections on stderr, at most one line a second."""

    def __init__(self) -> None:
        self._last, self._num_unlogged = -_LOG_SECONDS, 0

    def add(self, host: str, reason: str) -> None:
        now = time.monotonic()
        if now - self._last < _LOG_SECONDS:
            self._num_unlogged += 1
            return
        others = f" (and {self._num_unlogged} others before)" if self._num_unlogged else ""
        self._last, self._num_unlogged = now, 0
        print(
            f"process group: dropped a connection from {host}, which is not of this run: {reason}"
            f"{others}",
            file=sys.stderr,
            flush=True,
        )


class RendezvousServer:
    """Waits until the processes of a run are connected to process 0.

    Args:
        launch: process 0's.
        server: a listening socket; the caller closes it.
    """

    def __init__(self, launch: Launch, server: socket.socket):
        self._launch, self._server = launch, server
        self._selector = selectors.DefaultSelector()
        self._unproven: dict[_Connection, None] = {}  # in the order in which they connected
        self._present: dict[int, _Connection] = {}
        self._log = _DropLog()
        self._duplicates: dict[int, str] = {}

    @property
    def hint(self) -> str:
        """What may explain that a process is missing; empty: nothing is known."""
        return "; ".join(f"process {i} came twice, from {h}" for i, h in self._duplicates.items())

    def wait(self, deadline: float) -> list[int]:
        """Waits for all processes, and tells those that are connected which ones are missing.

        Returns:
            The numbers of the missing processes.
        """
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        try:
            while self._num_missing() and (now := time.monotonic()) < deadline:
                first = next(iter(self._unproven), None)  # the oldest, so its deadline is first
                until = min(deadline, first.hello_deadline if first else deadline)
                for key, _ in self._selector.select(max(until - now, 0.0)):
                    if key.fileobj is self._server:
                        self._accept()
                    elif key.data.sock.fileno() >= 0:  # else it was dropped in the meantime
                        self._receive(key.data)
                self._drop_late()
            return self._send_verdict()
        finally:
            for connection in [*self._unproven, *self._present.values()]:
                connection.sock.close()
            self._selector.close()

    def _num_missing(self) -> int:
        return self._launch.count - 1 - len(self._present)

    def _accept(self) -> None:
        try:
            accepted, address = self._server.accept()
        except OSError:
            time.sleep(_PAUSE_SECONDS)  # for example, no file descriptor is left
            return
        accepted.setblocking(False)
        connection = _Connection(accepted, str(address[0]), time.monotonic() + _HELLO_SECONDS)
        if len(self._unproven) >= _MAX_UNPROVEN:
            oldest = next(iter(self._unproven))
            self._drop(oldest, "too many connections have not said who they are")
        self._unproven[connection] = None
        self._selector.register(accepted, selectors.EVENT_READ, connection)
        _send(connection, {"challenge": connection.challenge})

    def _receive(self, connection: _Connection) -> None:
        try:
            chunk = connection.sock.recv(MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if connection.hello is not None:
            self._forget(connection)  # it was closed, and will connect again; or it sent too much
            return
        connection.received += chunk
        text, end, _ = connection.received.partition(b"\n")
        try:
            if not chunk:
                raise HandshakeError("it closed without saying who it is")
            if len(text) > MAX_BYTES:
                raise HandshakeError(f"it sent more than {MAX_BYTES} bytes without a line's end")
            if end:
                self._admit(connection, read_hello(decode(text)))
        except HandshakeError as error:
            self._drop(connection, str(error))

    def _admit(self, connection: _Connection, hello: Hello) -> None:
        """Accepts a process, or tells it why it is refused.

        Raises:
            HandshakeError: it is refused.
        """
        count = self._launch.count
        if not is_proven(hello, self._launch.token, connection.challenge):
            reason = f"it does not know the token (--token, {TOKEN_VARIABLE})"
            self._refuse(
                connection, f"another token; give all the same --token or {TOKEN_VARIABLE}"
            )
            raise HandshakeError(reason)
        if hello.count != count:
            self._refuse(
                connection, f"this run has {count} processes; start all with the same number"
            )
            raise HandshakeError(f"it expects {hello.count} processes instead of {count}")
        if not 1 <= hello.index < count:
            self._refuse(connection, "this number is taken; give each process its own")
            raise HandshakeError(f"it claims to be process {hello.index}")
        before = self._present.get(hello.index)
        if before is not None and _has_closed(before):
            self._forget(before)
        elif before is not None:
            self._duplicates[hello.index] = f"{before.host} and {connection.host}"
            reason = f"process {hello.index} is here already, from {before.host}"
            self._refuse(connection, f"{reason}; give each process its own number")
            raise HandshakeError(f"a second process {hello.index}; the first is at {before.host}")
        del self._unproven[connection]
        connection.hello, connection.received = hello, b""
        self._present[hello.index] = connection

    def _refuse(self, connection: _Connection, reason: str) -> None:
        _send(connection, {"refused": reason})

    def _drop_late(self) -> None:
        now = time.monotonic()
        for connection in list(self._unproven):
            if connection.hello_deadline > now:
                return
            self._drop(connection, f"it did not say who it is within {_HELLO_SECONDS:g} s")

    def _drop(self, connection: _Connection, reason: str) -> None:
        self._forget(connection)
        self._log.add(connection.host, reason)

    def _forget(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()
        self._unproven.pop(connection, None)
        if connection.hello is not None:
            del self._present[connection.hello.index]

    def _send_verdict(self) -> list[int]:
        missing = [i for i in range(1, self._launch.count) if i not in self._present]
        for connection in self._present.values():
            assert connection.hello is not None
            token, theirs = self._launch.token, connection.hello.challenge
            _send(connection, make_verdict(missing, token, connection.challenge, theirs))
        return missing


def _send(connection: _Connection, message: JsonObject) -> None:
    """Sends a message, which fits into an empty send buffer; a closed connection is ignored."""
    with contextlib.suppress(OSError):
        connection.sock.send(encode(message))


def _has_closed(connection: _Connection) -> bool:
    """Whether the other side has closed the connection."""
    try:
        return connection.sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
