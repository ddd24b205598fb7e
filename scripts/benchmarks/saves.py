"""What saving costs: the time a save keeps the loop waiting, its whole time beside a raw write of
the same bytes and beside Orbax alone, and the time to have the state back.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from aetheria.config import make_config
from aetheria.engine.record import EngineRecord, RunRecord, SnapshotRecord
from aetheria.events import Progress
from aetheria.snapshots import SnapshotStore, read_snapshot
from aetheria.snapshots.retention import Retention
from benchmarks.programs import make_parts
from benchmarks.report import read_spec, write

_BYTES_A_WEIGHT = 12  # a float32 and AdamW's two moments
_NAME = "snapshot_step1"
_RECORD = SnapshotRecord(
    progress=Progress(step=1, micro_step=1, examples_seen=1, epoch=1),
    engine=EngineRecord(
        metrics={},
        num_eval_examples=None,
        eval_step=None,
        num_skipped=0,
        pending=None,
        interval=None,
    ),
    listeners={},
    run=RunRecord(config={"mixed_precision": False}, example_spec={}, versions={}),
)


class Bench:
    """A program whose state has so many bytes, and three ways to put it on the disk."""

    def __init__(self, spec: Mapping[str, Any], megabytes: float):
        width = round((megabytes * 1e6 / _BYTES_A_WEIGHT) ** 0.5)
        model_params = {**spec["config"]["model_params"], "hidden_dim": width, "num_layers": 2}
        config = make_config({**spec["config"], "model_params": model_params}, "bench")
        _, feed, self._program = make_parts(config)
        self._state = self._program.init()
        self._chunk = next(feed.train_chunks(0, 1))
        self._folder = Path(spec["folder"]) / f"{megabytes:g}"
        self._folder.mkdir()
        self._store = SnapshotStore(self._folder / "ours", Retention(keep_last=2))
        self._orbax = ocp.CheckpointManager(self._folder / "orbax")
        self._orbax_step = 0

    def size_bytes(self) -> int:
        return sum(a.nbytes for a in self._program.export_state(self._state).values())

    def round(self) -> dict[str, float]:
        """Seconds of each, once."""
        arrays = self._export()
        host = {name: np.asarray(array) for name, array in arrays.items()}
        figures = {
            "raw": _timed(lambda: _write_raw(self._folder / "raw", host)),
            "orbax": _timed(lambda: self._save_by_orbax(host)),
            "ours": _timed(lambda: self._save(arrays)),
            "resume": _timed(self._resume),
        }
        return figures | {"blocking": self._blocking()}

    def _export(self) -> Mapping[str, Any]:
        return jax.block_until_ready(self._program.export_state(self._state))

    def _save_by_orbax(self, host: Mapping[str, np.ndarray]) -> None:
        """The same state and record, as Orbax's documentation shows it."""
        self._orbax_step += 1
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(host), record=ocp.args.JsonSave(_RECORD.to_json())
        )
        self._orbax.save(self._orbax_step, args=items)
        self._orbax.wait_until_finished()

    def _save(self, arrays: Mapping[str, Any]) -> None:
        self._store.save(_NAME, arrays, _RECORD)
        self._store.finished(wait=True)

    def _resume(self) -> None:
        """Reads, verifies, and places on the devices; the system may still hold the files."""
        snapshot = read_snapshot(self._folder / "ours" / _NAME)
        jax.block_until_ready(self._program.import_state(snapshot.arrays))

    def _blocking(self) -> float:
        """As the loop saves: behind a step that is still being computed."""
        shutil.rmtree(self._folder / "ours" / _NAME)
        self._state, _ = self._program.train_steps(self._state, self._chunk.arrays, 0, 1)
        started_at = time.perf_counter()
        self._store.save(_NAME, self._program.export_state(self._state), _RECORD)
        seconds = time.perf_counter() - started_at
        self._store.finished(wait=True)
        for written in ("raw", "orbax", "ours"):
            for path in (self._folder / written).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return seconds


def _timed(work: Callable[[], Any]) -> float:
    os.sync()  # what was written before is nobody's burden
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def _write_raw(path: Path, host: Mapping[str, np.ndarray]) -> None:
    path.mkdir(exist_ok=True)
    with (path / "bytes").open("wb") as file:
        for array in host.values():
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    """Measures each size; the first round warms up and does not count."""
    spec = read_spec()
    figures = {}
    for megabytes in spec["sizes"]:
        bench = Bench(spec, megabytes)
        bench.round()
        rounds = [bench.round() for _ in range(spec["num_rounds"])]
        figures[f"{megabytes:g}"] = {"size_bytes": bench.size_bytes(), "rounds": rounds}
    write(spec, figures)


if __name__ == "__main__":
    main()
