"""How much a server takes on at once: limits, and the gate that requests pass."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from aetheria.tools.serve.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all requests together, may ask for.

    Attributes:
        max_body_bytes: of the body of a request.
        max_rows: of a request.
        max_queue: requests for predictions that are read, wait or are computed at the same time.
        request_seconds: from the header of a request to its answer.
        grace_seconds: for what is under way, after a signal to end.
    """

    max_body_bytes: int = 32 * 2**20
    max_rows: int = 1024
    max_queue: int = 128
    request_seconds: float = 30.0
    grace_seconds: float = 20.0


class Gate:
    """Counts the requests for predictions that are under way; used by the event loop alone.

    Attributes:
        active: how many are under way.
        is_open: False once the server is to end.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._deadlines: set[asyncio.Timeout] = set()
        self.active, self.is_open = 0, True

    @contextmanager
    def passage(self) -> Iterator[None]:
        """A request is under way inside the block.

        Raises:
            RequestError: the server is full, or ends.
        """
        if not self.is_open:
            raise self.too_late(503, "")
        if self.active >= self._limits.max_queue:
            raise RequestError(
                429,
                f"server: expected at most {self._limits.max_queue} requests at once, got more; "
                "try again later",
                1,
            )
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    @asynccontextmanager
    async def until(self, deadline: float) -> AsyncIterator[None]:
        """Raises TimeoutError in the block at a time of the event loop, or at `expire`."""
        async with asyncio.timeout_at(deadline) as timeout:
            self._deadlines.add(timeout)
            try:
                yield
            finally:
                self._deadlines.discard(timeout)

    def expire(self) -> None:
        """Lets the time of all requests under way be over."""
        for timeout in self._deadlines:
            timeout.reschedule(asyncio.get_running_loop().time())
        self._deadlines.clear()

    def too_late(self, status: int, message: str) -> RequestError:
        """The answer to a request whose time is over: this one, or that the server ends."""
        if self.is_open:
            return RequestError(status, message, 1)
        return RequestError(503, "server: expected it to be ready, got its end; ask another", 1)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Reads the body of a request.

    Raises:
        RequestError: it is too long, too slow, or coded.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError(
            415, "Content-Encoding: expected none, got a compressed body; send it as it is"
        )
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > limits.max_body_bytes:
        raise _too_long(limits)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limits.max_body_bytes:
                raise _too_long(limits)
            parts.append(part)
    except ClientDisconnect as error:
        raise RequestError(400, "body: expected all of it, got its end; send it again") from error
    return b"".join(parts)


def _too_long(limits: Limits) -> RequestError:
    return RequestError(
        413,
        f"body: expected at most {limits.max_body_bytes} bytes, got more; split the request",
    )
