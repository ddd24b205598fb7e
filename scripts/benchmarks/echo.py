"""The least that an ASGI server does: it reads a body, and answers the bytes it was given."""

import sys
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers a request with its own body."""
    assert scope["type"] == "http"
    body, is_whole = b"", False
    while not is_whole:
        message = await receive()
        body += message["body"]
        is_whole = not message["more_body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serves on the port given until it is killed."""
    # Uvicorn as `aetheria serve` runs it: h11, no access log.
    config = uvicorn.Config(
        app, port=int(sys.argv[1]), http="h11", lifespan="off", log_level="error"
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
