"""What `prove resume` has in the run that it watches: who ends it at a step, and who writes down
which examples were read. Both are parts that a config names, a callback and a dataset.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aetheria.data.checks import check_data
from aetheria.data.sources import DataSplits, Source
from aetheria.events import Event, RunStarted, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.plugins import DATA
from aetheria.plugins.arguments import call_with
from aetheria.plugins.checks import find_dataset
from aetheria.snapshots.run_folder import CHECKPOINTS
from aetheria.snapshots.store import list_snapshots

EXAMPLES = "examples.jsonl"
_PATIENCE_SECONDS = 60.0


class Notes:
    """Which examples a process read: a line with the position it began at, then one for each read.

    What is read before the run has started, and the look at one example that a feed takes when it
    begins, is none of it.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._looked = False

    def begin(self, file: Path, examples_seen: int) -> None:
        self._file = file.open("a", encoding="utf-8")
        self._looked = False
        self._write({"from": examples_seen})

    def add(self, indices: np.ndarray) -> None:
        if self._file is None:
            return
        if not self._looked:
            self._looked = True
            assert indices.tolist() == [0], "a feed looks at the first example before it begins"
            return
        self._write({"read": indices.tolist()})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


_notes = Notes()


def dataset(*, name: str, params: Mapping[str, Any], project: str | None) -> DataSplits:
    """The dataset `name`; what is read of its training split is written down."""
    folder = None if project is None else Path(project)
    factory = find_dataset(DATA, name, folder, returns=DataSplits)
    splits, _ = check_data(call_with(factory, "data_params", params), name, {})
    return DataSplits(train=_Noted(splits.train), eval=splits.eval)


class _Noted:
    def __init__(self, source: Source):
        self._source = source
        self.in_memory = getattr(source, "in_memory", False)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        _notes.add(indices)
        return self._source.read(indices)


class KillAtStep:
    """Callback: starts the notes, and ends its own process at a step.

    Args:
        signal_number: how.
        at_step: where; None: it does not.
        save_every: the cadence of snapshots. Where one was due since the process started, it is
            waited for: a process that is killed must find more than it began with.
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
            _notes.begin(self._run_dir / EXAMPLES, event.progress.examples_seen)
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
    """The notes of a run: for each process, where it began and the examples it read, in order."""
    lives: list[tuple[int, list[int]]] = []
    for line in (run_dir / EXAMPLES).read_text(encoding="utf-8").splitlines():
        note = json.loads(line)
        if "from" in note:
            lives.append((note["from"], []))
        else:
            lives[-1][1].extend(note["read"])
    return lives
