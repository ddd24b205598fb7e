"""Records of snapshots for tests in which little of the record matters."""

from typing import Any

from aetheria.engine.record import EngineRecord, RunRecord, SnapshotRecord
from aetheria.events import Progress

SPEC = {"inputs": {"shape": [3], "dtype": "float32"}}


def make_run_record(**changes: Any) -> RunRecord:
    """What a record says of a run; with changes."""
    fields = {"config": {"mixed_precision": False}, "example_spec": SPEC, "versions": {}}
    return RunRecord(**{**fields, **changes})


def make_record(
    step: int, metrics: dict[str, float] | None = None, **changes: Any
) -> SnapshotRecord:
    """A record of a step at which an evaluation took place; with changes to the engine's part."""
    engine = {
        "metrics": metrics or {},
        "num_eval_examples": 1,
        "eval_step": step,
        "num_skipped": 0,
        "pending": None,
        "interval": None,
    }
    return SnapshotRecord(
        progress=Progress(step=step, micro_step=step, examples_seen=step, epoch=1),
        engine=EngineRecord(**{**engine, **changes}),
        listeners={},
        run=make_run_record(),
    )
