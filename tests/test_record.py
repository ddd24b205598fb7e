"""The record of a snapshot: typed, versioned, and read whatever it says."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import make_record, make_run_record

from aetheria.engine.record import (
    SCHEMA_VERSION,
    CodeDigest,
    DataFingerprint,
    ForkedFrom,
    ImportedFrom,
    LoggedMetrics,
    NewerRecordError,
    PendingEvaluation,
    Provenance,
    ResolvedArguments,
    SnapshotRecord,
)
from aetheria.engine.run_state import RunState
from aetheria.errors import SnapshotError
from aetheria.snapshots.manifest import record_digest
from aetheria.snapshots.snapshot_files import read_snapshot, write_snapshot
from aetheria.snapshots.store import find_newest, list_snapshots

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
LOGGED = LoggedMetrics(metrics={"loss": 0.5}, steps_per_second=3.0)


def full_record() -> SnapshotRecord:
    """A record in which no field is left out."""
    run = make_run_record(
        lineage=ForkedFrom(run="there", snapshot="snapshot_ep1", step=5),
        resolved=ResolvedArguments(
            model_params={"width": 4},
            data_params={"shape": [2, 3]},
            loggers={"jsonl": {}},
            callbacks={"early_stopping": {"patience": 3}},
            model={"width": 4},
        ),
        provenance=Provenance(
            code={
                "model": CodeDigest(file="m.py", sha256="0", imports={"n.py": "1"}),
                "data": None,
            },
            settings={"XLA_FLAGS": ""},
            machine={"num_devices": 1},
            data={
                "train": DataFingerprint(
                    num_examples=3, columns={"x": "f4[]"}, parts=((0, 3, "d"),), random=False
                )
            },
        ),
    )
    record = make_record(
        7,
        {"eval/loss": 0.25, "train/loss": math.inf},
        pending=PendingEvaluation(logged=LOGGED),
        interval={"loss": (1.5, 3.0)},
    )
    return replace(record, run=run, listeners={"early_stopping": {"best": 0.5}})


def written(record: SnapshotRecord) -> dict:
    return json.loads(json.dumps(record.to_json()))


@pytest.mark.parametrize(
    "record",
    [
        full_record(),
        make_record(0, eval_step=None, num_eval_examples=None),
        make_record(3, pending=PendingEvaluation()),
        replace(make_record(1), run=make_run_record(lineage=ImportedFrom(file="w.pt"))),
    ],
    ids=["full", "fresh", "nothing logged", "imported"],
)
def test_a_record_is_read_back_as_it_was_written(record):
    assert SnapshotRecord.from_json(written(record)) == record
    state = RunState.from_record(record)
    again = state.record(
        record.run,
        num_skipped=record.engine.num_skipped,
        interval=record.engine.interval,
        listeners=record.listeners,
    )
    assert again == record


def test_no_number_and_no_empty_object_stands_for_none():
    fresh = written(RunState().record(make_run_record()))
    engine = fresh["engine"]
    for name in ("num_eval_examples", "eval_step", "pending", "interval"):
        assert engine[name] is None
    text = json.dumps(fresh)
    assert "-1" not in text
    engine["eval_step"] = -1
    with pytest.raises(SnapshotError, match=r"record\.engine\.eval_step: expected a whole number"):
        SnapshotRecord.from_json(fresh)


def old_record(**engine: object) -> dict:
    """A record in the layout of 0.1.0, with the fewest fields that it wrote."""
    return {
        "progress": {"step": 4, "micro_step": 8, "examples_seen": 64, "epoch": 1},
        "engine": {"metrics": {}, "num_eval_examples": 0, "eval_step": -1, "num_skipped": 2}
        | engine,
        "listeners": {},
        "config": {"model_name": "SimpleMLP", "mixed_precision": False},
        "example_spec": {},
        "versions": {"aetheria": "0.1.0"},
        "lineage": None,
    }


@pytest.mark.parametrize(
    ("engine", "field", "expected"),
    [
        ({}, "eval_step", None),
        ({}, "num_eval_examples", None),
        ({"eval_step": 4, "num_eval_examples": 9}, "num_eval_examples", 9),
        ({}, "pending", None),
        ({"pending": None}, "pending", None),
        ({"pending": {}}, "pending", PendingEvaluation()),
        (
            {"pending": {"metrics": {"loss": 0.5}, "steps_per_second": 3.0}},
            "pending",
            PendingEvaluation(logged=LOGGED),
        ),
        ({}, "interval", None),
        ({"interval": {}}, "interval", None),
        ({"interval": {"loss": [1.5, 3.0]}}, "interval", {"loss": (1.5, 3.0)}),
    ],
)
def test_a_record_of_0_1_0_is_read(engine, field, expected):
    record = SnapshotRecord.from_json(old_record(**engine))
    assert getattr(record.engine, field) == expected
    assert record.schema_version == SCHEMA_VERSION
    assert record.run.resolved is None and record.run.provenance is None


def test_an_imported_record_of_0_1_0_is_read():
    old = {**old_record(), "lineage": {"file": "w.pt"}, "resolved": {"model_params": {"a": 1}}}
    run = SnapshotRecord.from_json(old).run
    assert run.lineage == ImportedFrom(file="w.pt")
    assert run.resolved == ResolvedArguments(model_params={"a": 1})


def save_as(folder: Path, name: str, says: object) -> Path:
    """A snapshot of which everything is right but what its record says."""
    path = folder / name
    write_snapshot(path, {"params/w": np.ones(3, np.float32)}, make_record(5))
    (path / "record" / "metadata").write_text(json.dumps(says))
    manifest = json.loads((path / "manifest" / "metadata").read_text())
    manifest["record"] = record_digest(says)
    (path / "manifest" / "metadata").write_text(json.dumps(manifest))
    return path


def test_a_record_of_a_newer_release_is_named_and_is_no_damaged_one(tmp_path):
    newer = {"schema_version": SCHEMA_VERSION + 1, "what": "ever"}
    path = save_as(tmp_path, "snapshot_ep2", newer)
    for call in (lambda: read_snapshot(path), lambda: find_newest(tmp_path)):
        with pytest.raises(NewerRecordError, match="written by a newer aetheria") as refused:
            call()
        assert len(refused.value.problems) == 1 and str(path) in str(refused.value)
    assert path.is_dir()


def test_a_snapshot_with_a_malformed_record_counts_as_damaged(tmp_path):
    write_snapshot(tmp_path / "snapshot_ep1", {"params/w": np.ones(3)}, make_record(3))
    says = written(make_record(5))
    says["progress"]["step"] = "five"
    path = save_as(tmp_path, "snapshot_ep2", says)
    assert [info.step for info in list_snapshots(tmp_path)] == [3, None]
    newest, ((damaged, reason),) = find_newest(tmp_path)
    assert newest is not None and newest.record.progress.step == 3
    assert damaged == path
    assert "record.progress.step: expected a whole number of at least 0, got 'five'" in reason


def places(value: object, way: tuple = ()) -> Iterator[tuple]:
    """The way to every value in a JSON value."""
    yield way
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from places(item, (*way, name))


WAYS = {
    "new": (written(full_record()), [*places(written(full_record()))]),
    "old": (old_record(), [*places(old_record())]),
}


@st.composite
def malformed(draw) -> object:
    """A record with another JSON value in one place, or without that place, or any JSON value."""
    if draw(st.integers(0, 9)) == 0:
        return draw(JSON)
    whole, ways = WAYS[draw(st.sampled_from([*WAYS]))]
    says, way = json.loads(json.dumps(whole)), draw(st.sampled_from(ways[1:]))
    node = says
    for name in way[:-1]:
        node = node[name]
    if draw(st.booleans()) and isinstance(node, dict):
        del node[way[-1]]
        node |= draw(st.just({}) | st.dictionaries(st.text(max_size=8), JSON, max_size=1))
    else:
        node[way[-1]] = draw(JSON)
    return says


@settings(max_examples=500, deadline=None)
@given(malformed())
def test_any_json_is_a_record_or_one_line(says):
    try:
        record = SnapshotRecord.from_json(says)
    except SnapshotError as refused:
        (line,) = refused.problems
        assert len(line.splitlines()) == 1 and len(line) < 1000, line
        return
    again = SnapshotRecord.from_json(written(record))
    assert json.dumps(again.to_json()) == json.dumps(record.to_json())
