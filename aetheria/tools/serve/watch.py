"""What surrounds every request: its id, the check of the token, a line in the log, the metrics."""

import hmac
import re
import time
import uuid
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aetheria.tools.serve.log import JsonLog
from aetheria.tools.serve.metrics import Metrics

# Without a token: a page without data, and what an orchestrator asks.
_OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,100}")
NOTES = "aetheria.notes"  # in the scope: what a route adds to its line in the log


class Watch:
    """Decorator: an ASGI application whose requests are named, checked, logged and counted.

    Args:
        app: the application.
        token: what a client must send as `Authorization: Bearer TOKEN`; None: nothing.
        log: gets a line for each request.
        metrics: counts each request.
    """

    def __init__(self, app: ASGIApp, token: str | None, log: JsonLog, metrics: Metrics):
        self._app, self._log, self._metrics = app, log, metrics
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        notes: dict[str, Any] = {}
        scope[NOTES] = notes
        status = 500

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(b"x-request-id", request_id), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            if self._is_allowed(scope["path"], headers.get(b"authorization", b"")):
                await self._app(scope, receive, send_named)
            else:
                await _refusal(scope, receive, send_named)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.request(route, status, seconds)
            self._log(
                "request",
                request_id=request_id.decode(),
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(seconds, 6),
                client=(scope.get("client") or ["unknown"])[0],
                **notes,
            )

    def _is_allowed(self, path: str, given: bytes) -> bool:
        if self._expected is None or path in _OPEN_PATHS:
            return True
        return hmac.compare_digest(given, self._expected)


_refusal = JSONResponse(
    {"error": "Authorization: expected the server's token, got another or none; send Bearer TOKEN"},
    status_code=401,
    headers={"WWW-Authenticate": "Bearer"},
)
