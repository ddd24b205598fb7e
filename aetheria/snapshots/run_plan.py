"""What starting a run does, once its request is resolved."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from aetheria.engine.interfaces import Snapshot
from aetheria.engine.record import ForkedFrom, Lineage, RunRecord
from aetheria.engine.typed_json import JsonObject, to_json
from aetheria.snapshots.run_folder import (
    OUTPUTS,
    STACKS,
    Contents,
    cannot_write,
    is_run,
    write_json,
)
from aetheria.snapshots.run_lock import RunLock
from aetheria.snapshots.store import quarantine

_HISTORY = ("metrics.jsonl", "metrics.csv", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What starting will do.

    Attributes:
        run_dir: the run folder.
        snapshot: what to resume from, verified; None to start afresh.
        parent: the run folder that is forked from; None if the run goes on in its own folder.
        damaged: newer snapshots that cannot be trusted, with the reason.
        overwrite: remove what an earlier run left in `run_dir`.
        numbered: `run_dir` is the next number under `runs/`; if another process takes it first, the
            next free one will do.
        found: what `run_dir` held when the plan was made; None: it does not matter.
        lock: this process's lock on `run_dir`; None: it is not locked yet.
        notes: what locking it showed, a line each.
    """

    run_dir: Path
    snapshot: Snapshot | None = None
    parent: Path | None = None
    damaged: tuple[tuple[Path, str], ...] = ()
    overwrite: bool = False
    numbered: bool = False
    found: Contents | None = None
    lock: RunLock | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """Says what was resolved, a line each."""
        lines = [*self.notes, *(f"{why}; moved to quarantine" for _, why in self.damaged)]
        if self.snapshot is None:
            return [*lines, f"run folder: {self.run_dir} (starting afresh)"]
        progress = self.snapshot.record.progress
        lines.append(
            f"resuming from {self.snapshot.path} (step {progress.step}, "
            f"epoch {progress.epoch}, verified)"
        )
        is_fork = f" (forked from {self.parent})" if self.parent else ""
        return [*lines, f"run folder: {self.run_dir}{is_fork}"]

    def lineage(self) -> Lineage | None:
        """What the run started from; None if it started afresh."""
        if self.snapshot is None:
            return None
        if self.parent is None:
            return self.snapshot.record.run.lineage
        return ForkedFrom(
            run=os.path.abspath(self.parent),
            snapshot=self.snapshot.path.name,
            step=self.snapshot.record.progress.step,
        )

    def prepare(self, config: JsonObject, run: RunRecord | None = None) -> None:
        """Makes the folder: quarantines, removes what is overwritten, copies a fork's history,
        writes `config.json`, and `provenance.json` if the record has any.

        Raises:
            SnapshotError: the disk does not take it.
        """
        try:
            self._prepare(config, run)
        except OSError as error:
            raise cannot_write(self.run_dir, error) from error

    def write_config(self, config: JsonObject, run: RunRecord | None) -> None:
        """Writes `config.json`, with the resolved arguments, and with the lineage, by which a fork
        without a snapshot of its own finds what it forked; and `provenance.json`.
        """
        resolved = {}
        if run is not None:
            resolved = {"resolved": to_json(run.resolved)}
            write_json(self.run_dir / "provenance.json", to_json(run.provenance))
        lineage = {"lineage": to_json(self.lineage())}
        write_json(self.run_dir / "config.json", {**config, **resolved, **lineage})

    def _prepare(self, config: JsonObject, run: RunRecord | None) -> None:
        for path, _ in self.damaged:
            quarantine(path)
        if self.overwrite:
            for name in OUTPUTS:
                _remove(self.run_dir / name)
            for stacks in self.run_dir.glob(STACKS):
                stacks.unlink()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if self.parent is not None and not is_run(self.run_dir):
            for name in _HISTORY:
                _copy(self.parent / name, self.run_dir / name)
        self.write_config(config, run)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
