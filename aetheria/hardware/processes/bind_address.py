"""The network address at which process 0 listens: the coordinator's, not all that it has."""

import contextlib
import ipaddress
import socket
import sys
import time
from collections.abc import Mapping

from aetheria.errors import HardwareError
from aetheria.hardware.processes.address import join_address, split_address
from aetheria.hardware.processes.launch import Launch

_BIND_VARIABLE = "JAX_COORDINATOR_BIND_ADDRESS"
_ALL_INTERFACES = ""
_RESOLVE_SECONDS = 15.0  # the name service of a cluster may know a host only after it has started
_RETRY_SECONDS = 0.5
_BACKLOG = 1024  # many processes connect at once; one that finds the backlog full waits a second


def find_bind_address(launch: Launch, environ: Mapping[str, str], timeout_seconds: float) -> str:
    """The address on this machine at which the others reach the coordinator.

    Process 0 listens on all interfaces, and says so on stderr, in two cases: the coordinator's name
    leads to no address of this machine (a container, address translation); or it leads to a
    loopback address, as many systems resolve their own name, while there may be other machines.

    Args:
        launch: the processes.
        environ: the environment; its JAX_COORDINATOR_BIND_ADDRESS takes precedence if it is set.
        timeout_seconds: how long to wait until the name can be resolved.

    Returns:
        `host:port`, with an empty host for all interfaces.

    Raises:
        HardwareError: the name cannot be resolved.
    """
    host, port = split_address(launch.coordinator)
    if chosen := environ.get(_BIND_VARIABLE):
        return _chosen(chosen, port)
    addresses = _resolve(host, min(timeout_seconds, _RESOLVE_SECONDS))
    local = [address for address in addresses if _is_local(address)]
    named_loopback = _is_address(host) or host == "localhost"
    if not local:
        reason = f"{host} ({addresses[0]}) is no address of this machine"
    elif ipaddress.ip_address(local[0]).is_loopback and not (named_loopback or launch.on_one_host):
        reason = f"{host} leads to {local[0]} on this machine, which no other can reach"
    else:
        return join_address(local[0], port)
    print(
        f"process group: {reason}; process 0 listens on all interfaces "
        f"({_BIND_VARIABLE}=HOST:PORT names one)",
        file=sys.stderr,
        flush=True,
    )
    return f"{_ALL_INTERFACES}:{port}"


def open_listener(bind_address: str) -> socket.socket:
    """Opens a socket that listens at an address of `find_bind_address`.

    Raises:
        HardwareError: the port is in use, or this user may not use it.
    """
    host, _, port = bind_address.rpartition(":")
    host = host.strip("[]")
    dual = host == _ALL_INTERFACES and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, int(port)), family=family, backlog=_BACKLOG, dualstack_ipv6=dual
        )
    except OSError as error:
        raise HardwareError(
            f"process group: expected port {port} to be free on process 0's host, got "
            f"{error.strerror}; name another coordinator"
        ) from error


def for_jax(bind_address: str) -> str:
    """A bind address in the form of JAX's coordinator, for which all interfaces are `[::]`."""
    return f"[::]{bind_address}" if bind_address.startswith(":") else bind_address


def _chosen(address: str, port: int) -> str:
    try:
        host, chosen_port = split_address(address)
        if chosen_port != port:
            raise ValueError(f"expected the coordinator's port {port}, got {chosen_port}")
        (first, *_) = _resolve(host, 0.0)
    except ValueError as error:
        raise HardwareError(f"{_BIND_VARIABLE}: {error}; change it") from None
    if ipaddress.ip_address(first).is_unspecified:
        return f"{_ALL_INTERFACES}:{port}"
    return join_address(first, port)


def _resolve(host: str, timeout_seconds: float) -> list[str]:
    """The numeric addresses of a name, IPv4 first."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = {str(info[4][0]): info[0] for info in found}
            return sorted(addresses, key=lambda a: addresses[a] != socket.AF_INET)
        except (OSError, UnicodeError) as error:
            if time.monotonic() < deadline:
                time.sleep(_RETRY_SECONDS)
                continue
            raise HardwareError(
                f"process group: expected the coordinator {host!r} to have an address, got "
                f"{error}; name process 0's host as the others see it"
            ) from None


def _is_local(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False
