"""The rendezvous: waits until all processes of a run are connected, and names the missing ones.

The framework has a rendezvous of its own, which ends the process with a stack trace if a process is
missing. This one comes first, at the same port, and reports which process is missing. A connection
that does not prove to belong to the run (`handshake.py`) is logged and dropped, and delays nobody.
"""

import os
import socket
import time
from typing import Any

from aetheria.errors import HardwareError
from aetheria.hardware.processes.address import split_address
from aetheria.hardware.processes.bind_address import find_bind_address, open_listener
from aetheria.hardware.processes.handshake import (
    MAX_BYTES,
    HandshakeError,
    decode,
    encode,
    make_hello,
    read_challenge,
    read_verdict,
)
from aetheria.hardware.processes.launch import Launch
from aetheria.hardware.processes.rendezvous_server import RendezvousServer

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
# Process 0 answers when its own timeout ends, which began a little earlier or later than ours.
_VERDICT_SECONDS = 10.0


def meet(launch: Launch, timeout_seconds: float, bind_address: str | None = None) -> None:
    """Returns when all processes are connected.

    Args:
        launch: this process among the others.
        timeout_seconds: how long to wait for all of them.
        bind_address: the address at which process 0 listens; None: found from the coordinator's
            name.

    Raises:
        HardwareError: processes are missing after the timeout; every process that is there raises
            it with their numbers. Or process 0 refused this process; the message has the reason.
    """
    deadline = time.monotonic() + timeout_seconds
    if launch.index == 0:
        address = bind_address or find_bind_address(launch, os.environ, timeout_seconds)
        with open_listener(address) as server:
            rendezvous = RendezvousServer(launch, server)
            missing = rendezvous.wait(deadline)
        total, hint = len(missing), rendezvous.hint
    else:
        missing, total, hint = _connect(launch, deadline)
    if total:
        absent = ", ".join(str(index) for index in missing)
        more = f" and {total - len(missing)} more" if total > len(missing) else ""
        raise HardwareError(
            f"process group: expected {launch.count} processes ({launch.source}) within "
            f"{timeout_seconds:g} s at {launch.coordinator}, got none for process {absent}{more}"
            f"{hint and f' ({hint})'}; read its log, or raise --initialization-timeout"
        )


def _connect(launch: Launch, deadline: float) -> tuple[list[int], int, str]:
    """The missing processes, how many they are, and why process 0 could not be reached."""
    host, port = split_address(launch.coordinator)
    problem = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(
                (host, port), timeout=min(left, _CONNECT_SECONDS)
            ) as connection:
                return *_exchange(launch, connection, deadline), ""
        except socket.gaierror as error:
            problem = f"{host} has no address here: {error.strerror}"
        except HandshakeError as error:
            problem = f"what listens there is not of this run: {error}"
        except (OSError, UnicodeError):
            problem = ""
        time.sleep(min(_RETRY_SECONDS, max(deadline - time.monotonic(), 0.0)))
    return [0], 1, problem


def _exchange(launch: Launch, connection: socket.socket, deadline: float) -> tuple[list[int], int]:
    greeting_by = min(deadline, time.monotonic() + _CONNECT_SECONDS)
    challenge = read_challenge(_receive(connection, greeting_by))
    hello, mine = make_hello(launch.index, launch.count, launch.token, challenge)
    connection.sendall(encode(hello))
    answer = _receive(connection, deadline + _VERDICT_SECONDS)
    if "refused" in answer:
        reason = "".join(c for c in str(answer["refused"])[:300] if c.isprintable())
        raise HardwareError(
            f"process group: process {launch.index} of {launch.count} ({launch.source}) is refused "
            f"by process 0 at {launch.coordinator}: {reason}"
        )
    return read_verdict(answer, launch.token, challenge, mine)


def _receive(connection: socket.socket, deadline: float) -> dict[str, Any]:
    """Receives one whole message before the deadline."""
    received = b""
    while b"\n" not in received:
        if len(received) > MAX_BYTES:
            raise HandshakeError(f"it sent more than {MAX_BYTES} bytes without a line's end")
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = connection.recv(MAX_BYTES)
        if not chunk:
            raise ConnectionError("closed")
        received += chunk
    return decode(received.partition(b"\n")[0])
