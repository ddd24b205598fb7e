"""What a client is answered when a request cannot be met."""


class RequestError(Exception):
    """A request that cannot be met; the answer is `{"error": message}`.

    Attributes:
        status: of HTTP: 4xx, the client has to change something; 503, it may try again.
        message: `<where>: expected <what>, got <value>; <what to do>`.
        retry_after_seconds: when to try again; None: never as it is.
    """

    def __init__(self, status: int, message: str, retry_after_seconds: int | None = None):
        self.status, self.message = status, message
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)
