"""The screens of `--quiet` and of `--log-format json`."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from aetheria.config.precision_policy import parse_policy
from aetheria.observe.loggers.json_lines import JsonLines, write_line
from aetheria.observe.loggers.progress_text import format_metrics
from aetheria.observe.loggers.quiet import WarningLogger
from aetheria.training.card import Card, count_by_layer, count_params

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
        write_line(self._stream, "start", {**_card_values(card), "notes": list(notes)})

    def end(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        values = {name: summary[name] for name in _OF_AN_END if name in summary}
        values |= {"step": summary.get("steps"), "metrics": summary.get("final", {})}
        write_line(self._stream, "end", {**values, "run_dir": str(run_dir)})

    def break_off(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        self.end(summary, run_dir)

    def say(self, line: str) -> None:
        pass


def _card_values(card: Card) -> dict[str, Any]:
    run, config, params = card.run, card.config, card.run.program.params
    snapshot = run.plan.snapshot
    return {
        "run_dir": str(run.plan.run_dir),
        "resumed_from": None if snapshot is None else str(snapshot.path),
        "step": 0 if snapshot is None else snapshot.record.progress.step,
        "total_steps": run.schedule.total_steps,
        "steps_per_epoch": run.schedule.steps_per_epoch,
        "model": config.model_name,
        "num_params": count_params(params),
        "layers": count_by_layer(params),
        "devices": list(card.devices),
        "mesh": dict(run.axes),
        "precision": dict(parse_policy(config.mixed_precision)),
        "batch_size": run.schedule.batch_size,
        "num_slices": card.num_slices,
        "reproducibility": config.reproducibility,
        "seed": config.seed,
        "data": config.data_name,
        "num_examples": card.num_examples(),
        "snapshot_bytes": run.program.state_bytes,
    }
