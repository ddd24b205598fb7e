"""`aetheria serve RUN …`: the predictions of trained models over HTTP."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.fields import ProjectFields
from aetheria.cli.flag import Arguments, Flag
from aetheria.errors import AetheriaError, ExitCode, shown

TOKEN_VARIABLE = "AETHERIA_SERVE_TOKEN"


def _between(least: float, most: float) -> Callable[[str], float]:
    """Makes a reader of numbers from `least` to `most`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise ValueError(f"expected a number from {least:g} to {most:g}, got {shown(text)}")
        return number

    return read


def _power_of_two(most: int) -> Callable[[str], int]:
    """Makes a reader of powers of two from 1 to `most`."""

    def read(text: str) -> int:
        number = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
        if not 1 <= number <= most or number & (number - 1):
            raise ValueError(f"expected a power of two from 1 to {most}, got {shown(text)}")
        return number

    return read


@dataclass(frozen=True, kw_only=True)
class ServeCommand(ProjectFields):
    """Serves the predictions of trained models over HTTP, by the Open Inference Protocol.

    The page at / tries them by hand; /metrics is for Prometheus. It logs a line of JSON for each
    request, and ends on SIGTERM or Ctrl-C, when what is under way is answered. A token in the
    environment variable AETHERIA_SERVE_TOKEN, or in --token-file, is asked of every client.

    Examples:
        aetheria serve runs/mlp/1@best --port=8000
        aetheria serve digits=runs/mlp/1 runs/cnn/3@best --reload-every=30 --token-file=token

    Exit codes:
        0: ended by a signal
        2: a mistake: a model cannot be loaded, or the port is taken

    Attributes:
        runs: a run folder, RUN@best, a snapshot or a file of weights; NAME=RUN serves it under
            another name than that of the run.
        port: where it listens; 0: any free port, which the first lines of the log name.
        host: where it listens; 0.0.0.0: on all addresses of this machine, for any other.
        token_file: a file with the token that clients must send.
        reload_every: look for a newer snapshot so often, and serve it (default: never).
        max_delay_ms: how long a call waits for others to be computed with it; 0: calls are not
            joined.
        max_joined_rows: calls are joined up to so many rows, a power of two.
        min_batch_size: compute fewer rows as so many, a power of two, so that calls of few rows can
            be joined as well; the last bits may differ from those without it.
        max_rows: of one request.
        max_body: of one request.
        max_queue: requests that are under way at once; more are answered with 429.
        request_timeout: from a request's header to its answer.
        grace: for what is under way when a signal ends the server.
    """

    runs: Annotated[tuple[str, ...], Arguments(name="RUN")]
    port: Annotated[int, Flag(values.whole(0, 65535), "N")] = 8000
    host: Annotated[str, Flag(metavar="ADDRESS")] = "127.0.0.1"
    token_file: Annotated[Path | None, Flag(values.local_path, "FILE")] = None
    reload_every: Annotated[float | None, Flag(values.duration, "SECONDS")] = None
    max_delay_ms: Annotated[float, Flag(_between(0, 10_000), "MS")] = 2.0
    max_joined_rows: Annotated[int, Flag(_power_of_two(1024), "N")] = 32
    min_batch_size: Annotated[int, Flag(_power_of_two(1024), "N")] = 1
    max_rows: Annotated[int, Flag(values.whole(1, 2**20), "N")] = 1024
    max_body: Annotated[int, Flag(values.size_bytes, "SIZE")] = 32_000_000
    max_queue: Annotated[int, Flag(values.whole(1, 2**16), "N")] = 128
    request_timeout: Annotated[float, Flag(values.duration, "SECONDS")] = 30.0
    grace: Annotated[float, Flag(values.duration, "SECONDS")] = 20.0

    def execute(self) -> int:
        """Serves until a signal, and returns the exit code.

        Raises:
            AetheriaError: a model cannot be loaded, the port is taken, or the extra is missing.
        """
        token = self._token()
        try:
            import fastapi  # noqa: F401
            import prometheus_client  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise AetheriaError(
                f"serve: expected the package {error.name}, got none; pip install 'aetheria[serve]'"
            ) from error
        from aetheria.tools.serve.gate import Limits
        from aetheria.tools.serve.served import ServingOptions, split_reference
        from aetheria.tools.serve.server import serve

        references = [split_reference(text) for text in self.runs]
        names = [name for name, _ in references]
        if twice := [name for name in names if names.count(name) > 1]:
            raise AetheriaError(
                f"serve: expected a name for each model, got {shown(twice[0])} twice; write "
                "NAME=RUN"
            )
        serve(
            references,
            (self.host, self.port),
            options=ServingOptions(
                project=self.project,
                min_batch_size=self.min_batch_size,
                max_joined_rows=self.max_joined_rows,
                max_delay_seconds=self.max_delay_ms / 1000,
            ),
            limits=Limits(
                max_body_bytes=self.max_body,
                max_rows=self.max_rows,
                max_queue=self.max_queue,
                request_seconds=self.request_timeout,
                grace_seconds=self.grace,
            ),
            token=token,
            reload_seconds=self.reload_every,
        )
        return int(ExitCode.OK)

    def _token(self) -> str | None:
        """The token, from the file or the environment; None: there is none."""
        where, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
        if self.token_file is not None:
            where = str(self.token_file)
            try:
                text = self.token_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise AetheriaError(
                    f"--token-file: expected a text file that can be read, got {where} ({error}); "
                    "check the path"
                ) from error
        if text is None:
            return None
        token = text.strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise AetheriaError(
                f"{where}: expected a token of visible ASCII characters, got another text; write "
                "one, such as that of openssl rand -hex 32"
            )
        return token
