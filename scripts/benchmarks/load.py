"""A client of little weight: connections that each send one request after the other.

One thread, raw sockets and prepared bytes, so that what is measured is the server. Imports the
standard library alone.
"""

import contextlib
import json
import re
import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Load(NamedTuple):
    """What a server did under load: the seconds of each request, and of all together."""

    latencies: list[float]
    seconds: float


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def request_bytes(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole HTTP request."""
    named = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def infer_requests(path: str, row: Any) -> dict[str, bytes]:
    """A request for the answer to one row, f32 [1, ...], as JSON and as binary tensors."""
    given = {"name": "inputs", "datatype": "FP32", "shape": list(row.shape)}
    plain = json.dumps({"inputs": [{**given, "data": row.ravel().tolist()}]}).encode()
    raw = row.tobytes()
    binary = {
        "inputs": [{**given, "parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{"name": "outputs", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(binary).encode()
    kinds = {"Content-Type": "application/octet-stream"}
    kinds["Inference-Header-Content-Length"] = str(len(head))
    return {
        "json": request_bytes(path, plain, {"Content-Type": "application/json"}),
        "binary": request_bytes(path, head + raw, kinds),
    }


@dataclass
class _Connection:
    """A connection with one request under way."""

    socket: socket.socket
    answer: bytearray = field(default_factory=bytearray)
    sent_at: float = 0.0

    def send(self, request: bytes) -> None:
        self.answer.clear()
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Reads what is there; returns whether the answer is whole.

        Raises:
            RuntimeError: it is no answer of status 200, or the server has closed the connection.
        """
        piece = self.socket.recv(1 << 16)
        self.answer += piece
        head, found, rest = self.answer.partition(b"\r\n\r\n")
        if length := _LENGTH.search(head):
            is_whole = bool(found) and len(rest) >= int(length[1])
        else:  # in chunks, of which the last is empty
            is_whole = rest.endswith(b"0\r\n\r\n")
        if not piece or (is_whole and b" 200 " not in head.split(b"\r\n")[0]):
            raise RuntimeError(f"expected an answer of status 200, got {bytes(self.answer)!r}")
        return is_whole


def ask_once(port: int, request: bytes) -> bytes:
    """Sends one request and returns the body of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as opened:
        connection = _Connection(opened)
        connection.send(request)
        while not connection.receive():
            pass
        return bytes(connection.answer.partition(b"\r\n\r\n")[2])


def put_load(port: int, request: bytes, num_connections: int, num_requests: int) -> Load:
    """Sends a number of requests from connections that each wait for their answer."""
    latencies: list[float] = []
    started_at, num_sent = time.perf_counter(), 0
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for _ in range(num_connections):
            opened = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(opened)
            selector.register(opened, selectors.EVENT_READ, connection)
            connection.send(request)
            num_sent += 1
        while len(latencies) < num_requests:
            for key, _ in selector.select(timeout=60):
                connection = key.data
                if not connection.receive():
                    continue
                latencies.append(time.perf_counter() - connection.sent_at)
                if num_sent < num_requests:
                    connection.send(request)
                    num_sent += 1
        return Load(latencies, time.perf_counter() - started_at)
