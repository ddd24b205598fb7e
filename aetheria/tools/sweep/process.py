"""One run of a trial: a process of `aetheria train`, and the metrics that it writes meanwhile."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aetheria.config import Config
from aetheria.config.files import to_yaml
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import ExitCode
from aetheria.snapshots.claim import EXPECTED_UNCHANGED
from aetheria.snapshots.run_lock import EXPECTED_FREE
from aetheria.training.run_info import read_object

_METRICS = "metrics.jsonl"


class RunProcess:
    """A run in a folder of its own, from its start, or from its newest snapshot, to its end.

    Args:
        run_dir: the run folder. Beside it are its config and its output, under the same name.
        config: of the run.
        project: the project folder.
        environment: variables of the process, beside those of this one.
    """

    def __init__(
        self, run_dir: Path, config: Config, project: Path, environment: Mapping[str, str]
    ):
        self.run_dir = run_dir
        self._log = _beside(run_dir, ".log")
        file = _beside(run_dir, ".yaml")
        file.write_text(to_yaml(config), encoding="utf-8")
        command = [sys.executable, "-m", "aetheria", "train", str(file), f"--workdir={run_dir}"]
        with self._log.open("a") as output:
            self._begins_at = output.tell()
            self._process = subprocess.Popen(
                [*command, f"--project={project}", "--resume=auto"],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches a whole group of processes: the run would be
                # signalled by it and by the sweep, and end at once at the second signal.
                start_new_session=True,
            )
        self._stopped = False

    def exit_code(self) -> int | None:
        """How the process ended; None: it has not."""
        return self._process.poll()

    def stop(self) -> None:
        """Asks the run to save a snapshot and end; once, since a second signal ends it at once."""
        if not self._stopped:
            self._stopped = True
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()

    def why(self) -> str:
        """Why the run failed, in one line."""
        code = self._process.returncode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        status, reason = (_summary(self.run_dir).get(name) for name in ("status", "reason"))
        if code != ExitCode.USER_ERROR and reason and status != "completed":
            return " ".join(str(reason).split())[:300]
        return self._last_line()[:300] or f"exit code {code}"

    def was_refused(self) -> bool:
        """Whether the run has ended since another process had its folder."""
        if self._process.returncode != ExitCode.USER_ERROR:
            return False
        # Not the last line: the process that has the folder writes into the same log.
        said = self._said()
        return any(expected in said for expected in (EXPECTED_FREE, EXPECTED_UNCHANGED))

    def _said(self) -> str:
        """What was printed since the start of the process."""
        return self._log.read_bytes()[self._begins_at :].decode(errors="replace")

    def _last_line(self) -> str:
        lines = self._said().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class MetricReader:
    """Reads the values of one metric from a run folder, as the run writes them.

    Args:
        run_dir: the run folder; need not exist yet.
        metric: such as `eval/loss`.
    """

    def __init__(self, run_dir: Path, metric: str):
        self._file = run_dir / _METRICS
        self._split, _, self._name = metric.rpartition("/")
        self._position = 0

    def new_values(self) -> list[tuple[int, float | None]]:
        """Step and value of each evaluation since the last call; None: it is not finite. A run that
        resumes writes some steps again.
        """
        try:
            with self._file.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._position:
                    self._position = 0
                file.seek(self._position)
                content = file.read()
        except OSError:
            return []
        whole = content.rfind(b"\n") + 1
        self._position += whole
        return [found for line in content[:whole].splitlines() if (found := self._read(line))]

    def _read(self, line: bytes) -> tuple[int, float | None] | None:
        try:
            record = json.loads(line)
            if record["split"] != self._split or self._name not in record:
                return None
            return int(record["step"]), record[self._name]
        except (ValueError, KeyError, TypeError):
            return None  # the run cut the file here when it resumed


def is_complete(run_dir: Path) -> bool:
    """Whether a run has come to its end."""
    return _summary(run_dir).get("status") == "completed"


def result_of(run_dir: Path, metric: str, mode: str) -> dict[str, Any]:
    """What a complete run reached.

    Returns:
        `value`, the best of its evaluations, null if none is finite; the `step` of that; `last`,
        the value at its end; and `seconds`.
    """
    values = dict(MetricReader(run_dir, metric).new_values())
    finite = {
        step: value for step, value in values.items() if value is not None and math.isfinite(value)
    }
    best = min if mode == "min" else max
    step = best(finite, key=lambda step: finite[step], default=None)
    return {
        "value": None if step is None else finite[step],
        "step": step,
        "last": next(reversed(values.values()), None),
        "seconds": _summary(run_dir).get("wall_seconds"),
    }


def _summary(run_dir: Path) -> JsonObject:
    return read_object(run_dir / "summary.json", [])


def _beside(run_dir: Path, ending: str) -> Path:
    return run_dir.with_name(run_dir.name + ending)
