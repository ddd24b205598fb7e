"""The address `host:port` as text, and the largest number of processes."""

import re

MAX_PROCESSES = 65_536
_MAX_PORT = 65_535
_HOST = re.compile(r"\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+")


def split_address(text: str) -> tuple[str, int]:
    """Splits `host:port`; the host may be an IPv6 address in brackets.

    Raises:
        ValueError: the text is not of that form, or the port is not from 1 to 65535.

    >>> split_address("host0:9000"), split_address("[::1]:9000")
    (('host0', 9000), ('::1', 9000))
    """
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or len(text) > 300 or not re.fullmatch(r"[0-9]{1,9}", port):
        raise ValueError(f"expected host:port, got {text[:100]!r}")
    if not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"expected a port from 1 to {_MAX_PORT}, got {int(port)}")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`.

    >>> join_address("::1", 9000)
    '[::1]:9000'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
