"""A connection of HTTP whose client cannot keep it for nothing: uvicorn, with deadlines for what it
leaves without one, and errors as JSON.
"""

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

_HEADER_SECONDS = 10.0


def bounded_connection(exchange_seconds: float) -> type[H11Protocol]:
    """Makes the class of a server's connections.

    Args:
        exchange_seconds: from the header of a request until its answer is sent and its body is
            read; then the connection is cut.
    """

    class BoundedConnection(H11Protocol):
        """A connection with a deadline for the header of a request, and one for its exchange."""

        # What a deadline is for: the number of the exchange, and whether its header is complete.
        _phase: tuple[int, str] = (0, "")
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def send_400_response(self, msg: str) -> None:
            self._send_error(400, f"request: expected HTTP, got what is none ({msg}); correct it")

        def _watch(self) -> None:
            """Starts the deadline of what the connection does now, unless it runs."""
            idle = self.cycle is None or self.cycle.response_complete
            if self.conn.their_state is h11.IDLE and idle:
                begun = self.cycle is None or bool(self.conn.trailing_data[0])
                state = "header" if begun else ""  # uvicorn itself ends an idle connection
            else:
                state = "exchange"
            phase = (id(self.cycle), state)
            if phase == self._phase:
                return
            self._phase = phase
            self._stop_deadline()
            if state and not self.transport.is_closing():
                seconds = _HEADER_SECONDS if state == "header" else exchange_seconds
                self._deadline = self.loop.call_later(seconds, self._end, state)

        def _stop_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _end(self, state: str) -> None:
            if state == "header":
                message = (
                    f"header: expected all of it within {_HEADER_SECONDS:g} seconds, got a part; "
                    "send it faster"
                )
                self._send_error(408, message)
            else:
                self.transport.abort()

        def _send_error(self, status: int, message: str) -> None:
            content = json.dumps({"error": message}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
                (b"connection", b"close"),
            ]
            reason = STATUS_PHRASES[status]
            answer = h11.Response(status_code=status, headers=headers, reason=reason)
            try:
                for event in (answer, h11.Data(data=content), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:
                pass  # an answer was under way: it cannot be followed by another
            self.transport.close()

    return BoundedConnection
