"""The first meeting of the processes of a run: whoever is missing is named.

The framework's own meeting ends the process with a stack trace when somebody does not come; this
one comes before it, at the same port, and says who. Who does not prove to be of the run
(`handshake.py`) is logged and dropped, and holds up nobody.
"""

import os
import socket
import time

from aetheria.errors import HardwareError
from aetheria.hardware.processes.address import split_address
from aetheria.hardware.processes.handshake import (
    MAX_BYTES,
    Stranger,
    decode,
    encode,
    make_hello,
    read_challenge,
    read_verdict,
)
from aetheria.hardware.processes.launch import Launch
from aetheria.hardware.processes.meeting import Meeting
from aetheria.hardware.processes.meeting_address import find_bind_address, open_listener

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
# Process 0 answers when its own time is up, which began a little later or earlier.
_VERDICT_SECONDS = 10.0


def meet(launch: Launch, timeout_seconds: float, bind_address: str | None = None) -> None:
    """Returns when all processes are there.

    Args:
        launch: which of how many this process is.
        timeout_seconds: how long to wait for all.
        bind_address: where process 0 listens; None: found from the coordinator's name.

    Raises:
        HardwareError: somebody did not come in time, on every process that did, with its number;
            or process 0 refused this process, with the reason.
    """
    deadline = time.monotonic() + timeout_seconds
    if launch.index == 0:
        address = bind_address or find_bind_address(launch, os.environ, timeout_seconds)
        with open_listener(address) as server:
            meeting = Meeting(launch, server)
            missing = meeting.wait(deadline)
        total, hint = len(missing), meeting.hint
    else:
        missing, total, hint = _join(launch, deadline)
    if total:
        absent = ", ".join(str(index) for index in missing)
        more = f" and {total - len(missing)} more" if total > len(missing) else ""
        raise HardwareError(
            f"process group: expected {launch.count} processes ({launch.source}) within "
            f"{timeout_seconds:g} s at {launch.coordinator}, got none for process {absent}{more}"
            f"{hint and f' ({hint})'}; look at its log, or raise --join-timeout"
        )


def _join(launch: Launch, deadline: float) -> tuple[list[int], int, str]:
    """Who is missing, how many, and what stood in the way if process 0 is."""
    host, port = split_address(launch.coordinator)
    trouble = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(
                (host, port), timeout=min(left, _CONNECT_SECONDS)
            ) as line:
                return *_converse(launch, line, deadline), ""
        except socket.gaierror as error:
            trouble = f"{host} has no address here: {error.strerror}"
        except Stranger as error:
            trouble = f"who listens there is not of this run: {error}"
        except (OSError, UnicodeError):
            trouble = ""
        time.sleep(min(_RETRY_SECONDS, max(deadline - time.monotonic(), 0.0)))
    return [0], 1, trouble


def _converse(launch: Launch, line: socket.socket, deadline: float) -> tuple[list[int], int]:
    greeting_by = min(deadline, time.monotonic() + _CONNECT_SECONDS)
    challenge = read_challenge(_receive(line, greeting_by))
    hello, mine = make_hello(launch.index, launch.count, launch.token, challenge)
    line.sendall(encode(hello))
    answer = _receive(line, deadline + _VERDICT_SECONDS)
    if "refused" in answer:
        reason = "".join(c for c in str(answer["refused"])[:300] if c.isprintable())
        raise HardwareError(
            f"process group: process {launch.index} of {launch.count} ({launch.source}) is refused "
            f"by process 0 at {launch.coordinator}: {reason}"
        )
    return read_verdict(answer, launch.token, challenge, mine)


def _receive(line: socket.socket, deadline: float) -> dict:
    """One message, whole before the deadline."""
    received = b""
    while b"\n" not in received:
        if len(received) > MAX_BYTES:
            raise Stranger(f"it sent more than {MAX_BYTES} bytes without a line's end")
        line.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = line.recv(MAX_BYTES)
        if not chunk:
            raise ConnectionError("closed")
        received += chunk
    return decode(received.partition(b"\n")[0])
