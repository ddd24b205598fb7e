"""Reads a dump of a non-finite global batch; `aetheria.snapshots.dumps` writes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aetheria.engine.record import NewerRecordError, current_layout
from aetheria.engine.record_0_1_0 import upgrade_dump
from aetheria.engine.typed_json import JsonObject, read_json
from aetheria.errors import SnapshotError
from aetheria.snapshots.dumps import GLOBAL_BATCH, KIND, DumpRecord
from aetheria.snapshots.snapshot_files import damaged, read_checkpoint


class Dump(NamedTuple):
    """A verified dump in host memory.

    Attributes:
        path: its folder.
        arrays: leaf path -> array, of the state before the step.
        global_batch: column name -> [grad_accumulation_steps, micro_batch, ...].
        record: where in which run that was.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    global_batch: Mapping[str, np.ndarray]
    record: DumpRecord


def read_dump(path: Path) -> Dump:
    """Reads and verifies a dump.

    Raises:
        SnapshotError: there is none, it is damaged, or it is a snapshot.
    """
    if not (path / "manifest").is_dir():
        raise SnapshotError(
            "dump: expected a folder that a non-finite global batch left in a run's dumps/, got "
            f"{path}; name one of these"
        )
    everything, said = read_checkpoint(path)
    if said.get("kind") != KIND:
        raise SnapshotError(
            f"dump: expected a dump of a non-finite global batch, got {path}, a snapshot; name a "
            "folder in the run's dumps/"
        )
    record = _read_record(path, said)
    prefix = f"{GLOBAL_BATCH}/"
    columns = {n: a for n, a in everything.items() if n.startswith(prefix)}
    arrays = {n: a for n, a in everything.items() if n not in columns}
    return Dump(path, arrays, {n.removeprefix(prefix): a for n, a in columns.items()}, record)


def _read_record(path: Path, said: JsonObject) -> DumpRecord:
    try:
        return read_json(DumpRecord, current_layout(said, upgrade_dump), "record")
    except NewerRecordError:
        raise
    except SnapshotError as error:
        raise damaged(path, error) from error
