"""The first meeting of the processes of a run: whoever is missing is named.

The framework's own meeting ends the process with a stack trace when somebody does not come; this
one comes before it, at the same port, and says who.
"""

import contextlib
import json
import socket
import time

from aetheria.errors import HardwareError
from aetheria.hardware.launch import Launch

_RETRY_SECONDS = 0.2


def meet(launch: Launch, timeout_seconds: float) -> None:
    """Returns when all processes are there.

    Raises:
        HardwareError: somebody did not come in time; on every process that did, with its number.
    """
    host, _, port = launch.coordinator.rpartition(":")
    deadline = time.monotonic() + timeout_seconds
    if launch.index == 0:
        missing = _wait_for_all(launch, int(port), deadline)
    else:
        missing = _say_hello(launch, host, int(port), deadline)
    if missing:
        absent = ", ".join(str(index) for index in missing)
        raise HardwareError(
            f"process group: expected {launch.count} processes ({launch.source}) within "
            f"{timeout_seconds:g} s at {launch.coordinator}, got none for process {absent}; "
            "look at its log, or raise --join-timeout"
        )


def _wait_for_all(launch: Launch, port: int, deadline: float) -> list[int]:
    missing, guests = set(range(1, launch.count)), []
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port), backlog=launch.count))
        except OSError as error:
            raise HardwareError(
                f"process group: expected port {port} to be free on process 0's host, got "
                f"{error.strerror}; name another coordinator"
            ) from error
        while missing and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError, ValueError):
                guest = stack.enter_context(server.accept()[0])
                guest.settimeout(max(deadline - time.monotonic(), 0.1))
                index = json.loads(guest.makefile().readline())["process"]
                if index in missing:
                    missing.discard(index)
                    guests.append(guest)
        answer = json.dumps({"missing": sorted(missing)}) + "\n"
        for guest in guests:
            with contextlib.suppress(OSError):
                guest.sendall(answer.encode())
    return sorted(missing)


def _say_hello(launch: Launch, host: str, port: int, deadline: float) -> list[int]:
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 5.0)) as host_socket:
                host_socket.sendall((json.dumps({"process": launch.index}) + "\n").encode())
                # Process 0 answers when its own time is up, which began a little later or earlier.
                host_socket.settimeout(left + 10.0)
                line = host_socket.makefile().readline()
                if line:
                    return json.loads(line)["missing"]
        except (OSError, ValueError):
            pass
        time.sleep(_RETRY_SECONDS)
    return [0]
