"""The screens of `--quiet` and of `--log-format json`."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from aetheria.observe.loggers.json_lines import JsonLines, write_line
from aetheria.observe.loggers.progress_text import format_metrics
from aetheria.observe.loggers.quiet import WarningLogger
from aetheria.training.card import Card

_OF_AN_END = (
    *("status", "exit_code", "reason", "examples_seen", "epoch", "best", "saved", "wall_seconds"),
    *("detached_listeners", "params_sha256"),
)


class QuietScreen:
    """Screen: errors, and one line at the end."""

    console, needs_console = WarningLogger, False

    def begin(self, card: Card, notes: Sequence[str]) -> None:
        pass

    def end(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        final = {name: float("nan") if v is None else v for name, v in summary["final"].items()}
        of_evals = {name: v for name, v in final.items() if not name.startswith("train/")}
        print(
            f"{summary['status']} at step {summary['steps']} ({summary['reason']}): "
            f"{format_metrics(of_evals or final)}; {run_dir}",
            flush=True,
        )

    def break_off(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class JsonScreen:
    """Screen: for a program, a JSON object a line.

    Args:
        stream: where the lines go.
    """

    needs_console = True

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.console = functools.partial(JsonLines, stream=stream)

    def begin(self, card: Card, notes: Sequence[str]) -> None:
        write_line(self._stream, "start", {**card.to_json(), "notes": list(notes)})

    def end(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        values = {name: summary[name] for name in _OF_AN_END if name in summary}
        values |= {"step": summary.get("steps"), "metrics": summary.get("final", {})}
        write_line(self._stream, "end", {**values, "run_dir": str(run_dir)})

    def break_off(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        self.end(summary, run_dir)

    def say(self, line: str) -> None:
        pass
