"""What `prove resume` adds to the run that it observes: a callback that kills the process at a
step, and a dataset that records which examples are read. The config of that run names both.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.build import make_dataset
from aetheria.data.sources import DataSplits, Source, buckets_of
from aetheria.events import Event, RunStarted, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.snapshots.run_folder import CHECKPOINTS
from aetheria.snapshots.store import list_snapshots

EXAMPLES = "examples.jsonl"
_PATIENCE_SECONDS = 60.0


class ExampleRecord:
    """Records which examples a process reads: a line with the position it starts at, then a line
    for each read.

    Does not record what is read before the run has started, nor the one example that a feed reads
    first to learn its shape.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._has_read_first = False

    def begin(self, file: Path, examples_seen: int) -> None:
        self._file = file.open("a", encoding="utf-8")
        self._has_read_first = False
        self._write({"from": examples_seen})

    def add(self, indices: np.ndarray) -> None:
        if self._file is None:
            return
        if not self._has_read_first:
            self._has_read_first = True
            assert indices.tolist() == [0], "a feed reads the first example before it starts"
            return
        self._write({"read": indices.tolist()})

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


_record = ExampleRecord()


def dataset(*, name: str, params: Mapping[str, object], project: str | None) -> DataSplits:
    """The dataset `name`, with a record of what is read from its training split."""
    folder = None if project is None else Path(project)
    splits, _ = make_dataset(name, params, folder, {})
    return replace(splits, train=_RecordedSource(splits.train))


class _RecordedSource:
    parallel = False  # the record has the order of reads

    def __init__(self, source: Source):
        self._source = source
        self.in_memory = getattr(source, "in_memory", False)
        self.buckets = buckets_of(source)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        _record.add(indices)
        return self._source.read(indices)


class KillAtStep:
    """Callback: starts the record of examples, and kills its own process at a step.

    Args:
        context: the run.
        at_step: the step; None: it does not kill the process.
        signal_number: the signal.
        save_every: the cadence of snapshots. If one was due since the process started, the callback
            waits for it, so that the next process resumes from a later step.
    """

    def __init__(
        self,
        context: RunContext,
        at_step: int | None = None,
        signal_number: int = signal.SIGKILL,
        save_every: int = 1,
    ):
        self._run_dir, self._at_step = context.run_dir, at_step
        self._signal, self._save_every = signal_number, save_every
        self._started_at = 0

    def notify(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._started_at = event.progress.step
            _record.begin(self._run_dir / EXAMPLES, event.progress.examples_seen)
        elif isinstance(event, TrainMetrics) and event.progress.step == self._at_step:
            if (event.progress.step - 1) // self._save_every > self._started_at // self._save_every:
                self._wait_for_snapshot()
            os.kill(os.getpid(), self._signal)

    def _wait_for_snapshot(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            infos = list_snapshots(self._run_dir / CHECKPOINTS)
            if infos and infos[-1].age_rank > (False, self._started_at):
                return
            time.sleep(0.01)


def read_examples(run_dir: Path) -> list[tuple[int, list[int]]]:
    """The record of a run: for each process, its first position and the examples it read."""
    processes: list[tuple[int, list[int]]] = []
    for line in (run_dir / EXAMPLES).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "from" in entry:
            processes.append((entry["from"], []))
        else:
            processes[-1][1].extend(entry["read"])
    return processes
