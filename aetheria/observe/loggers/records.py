"""Metric files: one line for each metric event, without a gap or a repeat when a run resumes."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aetheria.events import (
    EvaluationCompleted,
    Event,
    Progress,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.line_file import LineFile
from aetheria.plugins import register_logger

# Fields of `TrainMetrics` that differ from machine to machine, and may be None.
RATES = (
    "steps_per_second",
    "examples_per_second",
    "tokens_per_second",
    "mfu",
    "memory_bytes",
    "peak_memory_bytes",
    "data_wait_fraction",
)
# A metric that is a cell of a confusion matrix: the true class and the predicted one.
CELL = re.compile(r"confusion_(\d+)_(\d+)")


@register_logger("jsonl")
class JsonlLogger:
    """Writes `metrics.jsonl`: one JSON object a line, with null for a number that is not finite.

    The keys are step, micro_step, epoch, examples_seen, split (`train`, `eval`, or `eval/<name>` of
    several, `test`), and the metrics. Lines of `train` also have `learning_rate` if the optimizer
    tells it, and those of `RATES` that are known; the others have `num_examples`, and
    `num_nonfinite_examples` if the loss of some batches is not finite.
    """

    def __init__(self, context: RunContext):
        self._file = LineFile(context.run_dir / "metrics.jsonl", step_of_json)

    def notify(self, event: Event) -> None:
        """Writes a line for an event with metrics."""
        record = metric_record(event)
        if record is not None:
            finite = {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in record.items()
            }
            self._file.append(json.dumps(finite))
        self._file.follow(event)


@register_logger("csv")
class CsvLogger:
    """Writes `metrics.csv`, with one line for each value.

    The columns are step,epoch,examples_seen,split,name,value: in this long form a new metric does
    not change the header.
    """

    HEADER = "step,epoch,examples_seen,split,name,value"

    def __init__(self, context: RunContext):
        self._file = LineFile(context.run_dir / "metrics.csv", _step_of_csv, self.HEADER)

    def notify(self, event: Event) -> None:
        """Writes a line for each value of an event with metrics."""
        record = metric_record(event)
        if record is not None:
            keys = [record[name] for name in ("step", "epoch", "examples_seen", "split")]
            values = metric_values(event)  # type: ignore[arg-type]
            lines = [_csv_line([*keys, *item]) for item in values.items()]
            self._file.append(*lines)
        self._file.follow(event)


def metric_record(event: Event) -> dict[str, Any] | None:
    """The flat record of an event with metrics; None for any other event."""
    match event:
        case TrainMetrics():
            return {
                **_counters(event.progress, "train"),
                **metric_values(event),
                **{name: round(rate, 6) for name, rate in rates(event).items()},
            }
        case EvaluationCompleted():
            extra = {"num_examples": event.num_examples}
            return {**_counters(event.progress, event.split), **metric_values(event), **extra}
        case _:
            return None


def metric_values(event: TrainMetrics | EvaluationCompleted) -> dict[str, Any]:
    """The metrics of an event; of training also the learning rate, if it is known; of an evaluation
    also the count of non-finite examples, if there are any.
    """
    values = dict(event.metrics)
    if isinstance(event, TrainMetrics):
        return {**values, **event.hyperparameters}
    count = event.num_nonfinite_examples
    return values | {"num_nonfinite_examples": count} if count else values


def is_cell(name: str) -> bool:
    """Whether a metric is a cell of a confusion matrix, of which a list has no use.

    >>> is_cell("eval/confusion_0_12"), is_cell("eval/loss")
    (True, False)
    """
    return CELL.fullmatch(name.rpartition("/")[2]) is not None


def rates(event: TrainMetrics) -> dict[str, float]:
    """How fast a run trains, and what it uses: the figures that differ from machine to machine, as
    far as they are known.
    """
    values = {name: getattr(event, name) for name in RATES}
    return {name: value for name, value in values.items() if value is not None}


def _counters(progress: Progress, split: str) -> Mapping[str, Any]:
    return {
        "step": progress.step,
        "micro_step": progress.micro_step,
        "epoch": progress.epoch,
        "examples_seen": progress.examples_seen,
        "split": split,
    }


def _csv_line(values: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def step_of_json(line: str) -> int | None:
    """The step of a JSON line; None: it is none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _step_of_csv(line: str) -> int | None:
    first, _, rest = line.partition(",")
    return int(first) if first.isdecimal() and rest.count(",") >= 4 else None
