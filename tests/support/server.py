"""`aetheria serve` in a process of its own, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A server that runs until `stop`; `log` holds the lines that it has printed."""

    def __init__(self, folder: Path, *arguments: str, **environment: str):
        command = [sys.executable, "-m", "aetheria", "serve", *arguments, "--port=0"]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            # As the tests compile: other options of the compiler would be other bits.
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready.wait(timeout=200)
        serving = [line for line in self.log if line["event"] == "serving"]
        assert serving, self.log
        self.url = serving[0]["url"]
        self.address = self.url.removeprefix("http://")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "text", "text": line})
            if self.log[-1]["event"] == "serving":
                self._ready.set()
        self._ready.set()

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
        """Status, headers with small letters, and body; an object is sent as JSON."""
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(f"{self.url}{path}", data=body, headers=named, method=method)
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, _small(answer.headers), answer.read()
        except HTTPError as error:
            with error:
                return error.code, _small(error.headers), error.read()

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    def wait_for(self, event: str, seconds: float = 60, **fields: Any) -> dict[str, Any]:
        """The first line of the log with this event and these fields."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines(event):
                if fields.items() <= line.items():
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {event} {fields} in {self.log[-20:]}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def _small(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
