"""Writes dumps of non-finite global batches, which `aetheria debug nan` reads and replays.

A dump is written as a snapshot is, digests included. It holds the state before the step, the global
batch itself, and a record of where in which run that was. The optimizer's part of the state is left
out where the loss or the gradient was not finite.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from aetheria.engine.interfaces import UPDATE_OR_STATE, DataFeed
from aetheria.engine.record import SCHEMA_VERSION, RunRecord
from aetheria.engine.typed_json import to_json
from aetheria.snapshots.snapshot_files import one_line, write_checkpoint

KIND = "nonfinite"
GLOBAL_BATCH = "window"
_LEFT_OUT = "opt_state"  # most of the bytes, and no part of a loss or a gradient
_MAX_DUMPS = 3  # of a run: the first failures tell most


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpRecord:
    """The record of a dump.

    Attributes:
        schema_version: of the layout on disk, as in the record of a snapshot.
        kind: `KIND`.
        step: the step whose global batch was not finite.
        what: what was not finite, `LOSS_OR_GRADIENT` or `UPDATE_OR_STATE`.
        examples_seen: where the global batch begins.
        indices: its examples, by their numbers in the training split.
        total_steps: the length of the run, for the schedule; None: an older release wrote it.
        run: as in every snapshot of the run.
    """

    schema_version: int = SCHEMA_VERSION
    kind: str = KIND
    step: int
    what: str
    examples_seen: int
    indices: tuple[int, ...]
    total_steps: int | None = None
    run: RunRecord


class NonFiniteDumps:
    """Writes the first few dumps of a run.

    Args:
        folder: the run's `dumps/`; made when it is needed.
        feed: serves whole global batches, whatever part of them this process trains on.
        run: what every record says of the run.
        total_steps: the length of the run.
        writes: whether this process is the one that writes.
    """

    def __init__(
        self, folder: Path, feed: DataFeed, run: RunRecord, *, total_steps: int, writes: bool
    ):
        self._folder, self._feed, self._writes = folder, feed, writes
        self._run, self._total_steps = run, total_steps
        self._num_requested = 0

    def has_budget(self) -> bool:
        """Whether another dump would be written; the same on every process."""
        return self._num_requested < _MAX_DUMPS

    def write(
        self, step: int, examples_seen: int, arrays: Mapping[str, ArrayLike], what: str
    ) -> str | None:
        """Writes a dump; a failure costs a line on stderr, and not the run."""
        self._num_requested += 1
        if not self._writes:
            return None
        path = self._folder / f"{KIND}_step{step}"
        try:
            record = DumpRecord(
                step=step,
                what=what,
                examples_seen=examples_seen,
                indices=tuple(int(n) for n in self._feed.train_indices(examples_seen)),
                total_steps=self._total_steps,
                run=self._run,
            )
            self._write(path, arrays, record)
        except Exception as error:  # of whatever library: the run is what matters
            print(f"{path} could not be written: {one_line(error)}; going on", file=sys.stderr)
            return None
        return str(path)

    def _write(self, path: Path, arrays: Mapping[str, ArrayLike], record: DumpRecord) -> None:
        whole = record.what == UPDATE_OR_STATE
        kept = {n: a for n, a in arrays.items() if whole or n.split("/")[0] != _LEFT_OUT}
        global_batch = self._global_batch(record.examples_seen)
        columns = {f"{GLOBAL_BATCH}/{name}": column for name, column in global_batch.items()}
        written = to_json(record)
        assert isinstance(written, dict)
        shutil.rmtree(path, ignore_errors=True)  # of an earlier start of this run
        self._folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, {**kept, **columns}, written)

    def _global_batch(self, examples_seen: int) -> dict[str, np.ndarray]:
        """Reads the global batch again: data is a function of its position."""
        chunks = self._feed.train_chunks(examples_seen, 1)
        arrays = next(chunks).arrays
        chunks.close()
        return {name: np.asarray(column[0]) for name, column in arrays.items()}


def newest_dump(run_dir: Path) -> str | None:
    """The newest dump of a run; None if it has none."""
    prefix = f"{KIND}_step"
    steps = {
        int(path.name.removeprefix(prefix)): str(path)
        for path in (run_dir / "dumps").glob(f"{prefix}*")
        if path.name.removeprefix(prefix).isdecimal()
    }
    return steps[max(steps)] if steps else None
