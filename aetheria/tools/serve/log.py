"""One line of JSON for each event, written by a thread of its own: a reader that is slow or gone
holds up no request.
"""

import json
import logging
import queue
import sys
import threading
import time
from typing import Any

_MAX_WAITING = 10_000  # lines


class JsonLog:
    """Writes events to standard output; drops lines, and says how many, while nothing reads it."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def __call__(self, event: str, **fields: Any) -> None:
        """Queues a line: the time in seconds since 1970, the event and its fields."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, default=str)
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Writes what is queued, unless nothing reads it."""
        try:
            self._lines.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            print(line, flush=True)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self("dropped", lines=dropped)


class LogHandler(logging.Handler):
    """Adapter: what libraries log becomes events."""

    def __init__(self, log: JsonLog):
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the record, with its traceback if it has one."""
        fields: dict[str, Any] = {"level": record.levelname, "logger": record.name}
        if record.exc_info:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._log("message", text=record.getMessage(), **fields)


def route_library_logs(log: JsonLog) -> LogHandler:
    """Makes warnings of Python and of libraries events; returns the handler, to be removed."""
    handler = LogHandler(log)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(handler)
    return handler


def restore_library_logs(handler: LogHandler) -> None:
    """The inverse of `route_library_logs`."""
    logging.captureWarnings(False)
    logging.getLogger().removeHandler(handler)
    sys.stdout.flush()
