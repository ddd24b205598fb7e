"""The lines of `aetheria train --log-format json`: one JSON object for each event."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TextIO

from aetheria.events import (
    EvaluationCompleted,
    Event,
    NonFiniteDetected,
    Progress,
    RolledBack,
    SnapshotFailed,
    SnapshotSaved,
    SpotCheckFailed,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext


class JsonLines:
    """Listener: writes a line for what a program that watches the run wants to know.

    Args:
        context: of the run.
        stream: where the lines go.
    """

    def __init__(self, context: RunContext, stream: TextIO):
        self._stream = stream

    def notify(self, event: Event) -> None:
        """Writes the line of an event, if it has one."""
        match event:
            case TrainMetrics():
                self._write("train", _of_training(event))
            case EvaluationCompleted():
                self._write("eval", _of_evaluation(event))
            case SnapshotSaved():
                values = {"name": event.name, "step": event.step, "saved": True}
                sizes = {"size_bytes": event.size_bytes, "seconds": event.seconds}
                self._write("snapshot", values | sizes)
            case SnapshotFailed():
                values = {"name": event.name, "step": event.step, "saved": False}
                self._write("snapshot", values | {"reason": event.reason})
            case NonFiniteDetected():
                values = {"step": event.last_skipped_step, "what": event.what, "dump": event.dump}
                counts = {"num_skipped": event.num_skipped, "total": event.num_skipped_total}
                self._write("skipped", values | counts)
            case SpotCheckFailed():
                self._write("spot_check", _of_mismatch(event))
            case RolledBack():
                values = {"step": event.progress.step, "from_step": event.from_step}
                self._write("rollback", values | {"snapshot": event.snapshot})

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        write_line(self._stream, kind, values)


def write_line(stream: TextIO, kind: str, values: Mapping[str, Any]) -> None:
    """Writes `{"event": kind, "time": …, …}`; `time` is in seconds since the epoch.

    A number that is not finite is null, as JSON has none. Text is ASCII with escapes, so that no
    encoding of the stream lacks a character.
    """
    line = json.dumps({"event": kind, "time": round(time.time(), 3), **_plain(values)})
    stream.write(line + "\n")
    stream.flush()


def _plain(value: Any) -> Any:
    """Replaces numbers that are not finite.

    >>> _plain({"loss": float("nan"), "steps": [1, 2.5]})
    {'loss': None, 'steps': [1, 2.5]}
    """
    match value:
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _position(progress: Progress) -> dict[str, int]:
    return {
        "step": progress.step,
        "epoch": progress.epoch,
        "examples_seen": progress.examples_seen,
    }


def _of_training(event: TrainMetrics) -> dict[str, Any]:
    return {
        **_position(event.progress),
        "metrics": dict(event.metrics),
        "hyperparameters": dict(event.hyperparameters),
        "steps_per_second": event.steps_per_second,
        "examples_per_second": event.examples_per_second,
        "tokens_per_second": event.tokens_per_second,
        "mfu": event.mfu,
        "memory_bytes": event.memory_bytes,
        "data_wait_fraction": event.data_wait_fraction,
    }


def _of_evaluation(event: EvaluationCompleted) -> dict[str, Any]:
    return {
        **_position(event.progress),
        "split": event.split,
        "metrics": dict(event.metrics),
        "num_examples": event.num_examples,
        "num_nonfinite_examples": event.num_nonfinite_examples,
        "seconds": event.seconds,
    }


def _of_mismatch(event: SpotCheckFailed) -> dict[str, Any]:
    return {
        "step": event.progress.step + 1,
        "what": event.what,
        "suspects": [asdict(suspect) for suspect in event.suspects],
        "is_decided": event.is_decided,
        "action": event.action,
    }
