"""Metric files: one line a report, continued without a gap or a repeat when a run resumes."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aetheria.events import (
    EvaluationCompleted,
    Event,
    Progress,
    RolledBack,
    RunEnded,
    RunStarted,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.retrying_file import RetryingFile
from aetheria.plugins import register_logger


@register_logger("jsonl")
class JsonlLogger:
    """Writes `metrics.jsonl`: a JSON object a line, a number that is not finite as null.

    Keys: step, micro_step, epoch, examples_seen, split (`train` or `eval`), then the metrics;
    `steps_per_second` on train lines and `num_examples` on eval lines, with
    `num_nonfinite_examples` where the loss of some batches is not finite.
    """

    def __init__(self, context: RunContext):
        self._file = _LineFile(context.run_dir / "metrics.jsonl", _step_of_json)

    def notify(self, event: Event) -> None:
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
    """Writes `metrics.csv` in long form, so that new metrics change no header:
    step,epoch,examples_seen,split,name,value.
    """

    HEADER = "step,epoch,examples_seen,split,name,value"

    def __init__(self, context: RunContext):
        self._file = _LineFile(context.run_dir / "metrics.csv", _step_of_csv, self.HEADER)

    def notify(self, event: Event) -> None:
        record = metric_record(event)
        if record is not None:
            keys = [record[name] for name in ("step", "epoch", "examples_seen", "split")]
            values = metric_values(event)  # type: ignore[arg-type]
            lines = [_csv_line([*keys, *item]) for item in values.items()]
            self._file.append(*lines)
        self._file.follow(event)


def metric_record(event: Event) -> dict[str, Any] | None:
    """The flat record of an event that carries metrics, None for any other."""
    match event:
        case TrainMetrics():
            extra = {"steps_per_second": round(event.steps_per_second, 3)}
            return {**_counters(event.progress, "train"), **metric_values(event), **extra}
        case EvaluationCompleted():
            extra = {"num_examples": event.num_examples}
            return {**_counters(event.progress, "eval"), **metric_values(event), **extra}
        case _:
            return None


def metric_values(event: TrainMetrics | EvaluationCompleted) -> dict[str, Any]:
    """The metrics of an event, and of an evaluation how many examples are not finite, if any."""
    count = event.num_nonfinite_examples if isinstance(event, EvaluationCompleted) else 0
    return {**event.metrics, **({"num_nonfinite_examples": count} if count else {})}


def _counters(progress: Progress, split: str) -> Mapping[str, Any]:
    return {
        "step": progress.step,
        "micro_step": progress.micro_step,
        "epoch": progress.epoch,
        "examples_seen": progress.examples_seen,
        "split": split,
    }


def _csv_line(values: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _step_of_json(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _step_of_csv(line: str) -> int | None:
    first, _, rest = line.partition(",")
    return int(first) if first.isdecimal() and rest.count(",") >= 4 else None


class _LineFile:
    """A text file of lines that each belong to a step.

    At the start of a run it drops the lines after the step resumed from, and a line that a kill
    left half written: the run will write them again. Each report is flushed as it is written.
    """

    def __init__(self, path: Path, step_of: Callable[[str], int | None], header: str = ""):
        self._path, self._step_of, self._header = path, step_of, header
        self._file: RetryingFile | None = None

    def follow(self, event: Event) -> None:
        """Opens with the run, is cut where the run goes back, and closes with it."""
        if isinstance(event, (RunStarted, RolledBack)):
            self._file = self._file or RetryingFile(self._path)
            self._forget_after(event.last_logged)
        elif isinstance(event, RunEnded) and self._file is not None:
            self._file.close()

    def append(self, *lines: str) -> None:
        assert self._file is not None, "RunStarted comes first"
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()

    def _forget_after(self, last_step: int) -> None:
        """Drops what belongs to later steps or to none: as a rule the end of the file, which is cut
        off in place.
        """
        file = self._file
        assert file is not None, "RunStarted comes first"
        content, header = file.content(), f"{self._header}\n".encode() if self._header else b""
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        kept, end = [header], len(header)
        position = 0
        for line in lines:
            position += len(line)
            if self._is_kept(line, last_step):
                kept.append(line)
                end = position
        if not file.become(b"".join(kept)):
            # No room to write it anew: a strange line in the middle stays for now.
            file.become(content[:end])
        file.flush()

    def _is_kept(self, line: bytes, last_step: int) -> bool:
        # What a crash of the machine leaves may be no text at all.
        step = self._step_of(line.decode("utf-8", errors="replace").rstrip("\r\n"))
        return step is not None and step <= last_step
