"""Compares what a snapshot and its run recorded with what a replay computed. Knows no device."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aetheria.engine.record import RunRecord, SnapshotRecord
from aetheria.engine.typed_json import JsonObject, to_json
from aetheria.hardware.layout.counters import IGNORE_UNTIL
from aetheria.observe.loggers.records import RATES
from aetheria.training.run_info import mapping

_COUNTERS = "counters"  # the leaf of the guard
# What a snapshot says of its run that the replay makes anew, as a path into the record.
_OF_THE_RUN = ("example_spec", "encoding", "input_ranges")
_RESOLVED = ("model_params", "data_params", "model")
_MISSING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One difference.

    Attributes:
        what: a leaf such as `params/Dense_0/kernel`, a value such as `train/loss`, or a field of
            the record.
        step: where; None: not known.
        detail: how it differs, in words.
    """

    what: str
    step: int | None
    detail: str

    def __str__(self) -> str:
        where = "" if self.step is None else f" at step {self.step}"
        return f"{self.what}{where}: {self.detail}"


def leaf_differences(
    recorded: Mapping[str, np.ndarray],
    replayed: Mapping[str, np.ndarray],
    *,
    step: int,
    tolerance: float | None,
    ignores: bool = False,
) -> Iterator[Difference]:
    """Compares two states, leaf by leaf in the order of the state's tree.

    Args:
        recorded: leaf path -> array, of a snapshot.
        replayed: likewise, of the replay.
        step: of both.
        tolerance: the largest difference that is allowed in a leaf of floats, relative to the
            largest magnitude in it; None: no bit may differ.
        ignores: leave out one of the guard's counters: up to which step it need not wait for the
            host. Where global batches are skipped, that depends on where the process began.
    """
    for path in {**recorded, **replayed}:
        if path not in recorded or path not in replayed:
            where = "snapshot" if path in recorded else "replay"
            yield Difference(what=path, step=step, detail=f"only in the {where}")
            continue
        old, new = np.asarray(recorded[path]), np.asarray(replayed[path])
        if path == _COUNTERS and ignores:
            old, new = old.copy(), new.copy()
            old[IGNORE_UNTIL] = new[IGNORE_UNTIL] = 0
        if (detail := _array_difference(old, new, tolerance)) is not None:
            yield Difference(what=path, step=step, detail=detail)


def _array_difference(old: np.ndarray, new: np.ndarray, tolerance: float | None) -> str | None:
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return _told(*(f"{each.dtype}{list(each.shape)}" for each in (old, new)))
    others = _bytes(old) != _bytes(new)
    if not others.any():
        return None
    count = int(others.any(axis=1).sum())
    text = f"{count} of {old.size} values differ"
    if old.dtype.kind not in "fV":  # V: bfloat16 and its like
        return text
    one, other = old.astype(np.float64), new.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.where(one == other, 0.0, np.abs(one - other))
    largest = float(distance.max())
    if tolerance is not None:
        finite = one[np.isfinite(one)]
        magnitude = float(np.abs(finite).max()) if finite.size else 0.0
        if largest <= tolerance * magnitude:  # never of a NaN
            return None
    if largest == 0.0:
        return f"{text}, in the sign of a zero or the bits of a NaN"
    return f"{text}, by up to {largest:.3g}"


def _bytes(array: np.ndarray) -> np.ndarray:
    """u8 [values, bytes of one]."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1)


def read_lines(text: str) -> list[JsonObject]:
    """The whole lines of a `metrics.jsonl`, without the speed."""
    lines = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # half written
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            lines.append({key: value for key, value in values.items() if key not in RATES})
    return lines


def lines_of_interval(
    lines: Sequence[JsonObject], start: SnapshotRecord | None, end: SnapshotRecord
) -> list[JsonObject]:
    """The metric lines that belong to an interval.

    Where a stop cut an evaluation short at a snapshot, the process that resumes writes the lines of
    that step again, and so they belong to what follows the snapshot. What was logged of training
    there belongs to both sides.
    """
    first = -1 if start is None else start.progress.step
    last = end.progress.step

    def belongs(line: JsonObject) -> bool:
        step, split = line["step"], str(line.get("split"))
        assert isinstance(step, int), "read_lines checks it"
        if step == first and (start is None or not _is_left(start, split)):
            return False
        if step == last and _is_left(end, split) and split != "train":
            return False
        return first <= step <= last

    return [line for line in lines if belongs(line)]


def _is_left(record: SnapshotRecord, split: str) -> bool:
    """Whether the line of a split is still to be written after a snapshot, at its very step."""
    pending = record.engine.pending
    return pending is not None and (not pending.of_test or split == "test")


def line_differences(
    recorded: Sequence[JsonObject], replayed: Sequence[JsonObject], tolerance: float | None
) -> Iterator[Difference]:
    """Compares metric lines in their order."""
    for old, new in zip(recorded, replayed, strict=False):
        if _key(old) != _key(new):
            is_recorded = _key(new) in map(_key, recorded)
            yield _lonely(old, "run") if is_recorded else _lonely(new, "replay")
            return
        split, step = _key(old)
        for name, *texts in json_differences(old, new, tolerance):
            yield Difference(what=f"{split}/{name}", step=step, detail=_told(*texts))
    longer, where = (recorded, "run") if len(recorded) > len(replayed) else (replayed, "replay")
    for line in longer[min(len(recorded), len(replayed)) :][:1]:
        yield _lonely(line, where)


def pending_differences(
    recorded: SnapshotRecord, replayed: Sequence[JsonObject], tolerance: float | None
) -> Iterator[Difference]:
    """Compares what a snapshot keeps of the step before an evaluation that was cut short with the
    metric lines of the replay.
    """
    pending, step = recorded.engine.pending, recorded.progress.step
    if pending is None or pending.logged is None:
        return
    new = next((line for line in replayed if _key(line) == ("train", step)), {})
    for name, value in pending.logged.metrics.items():
        for _, *texts in json_differences(value, new.get(name), tolerance):
            what = f"record: engine.pending.logged.{name}"
            yield Difference(what=what, step=step, detail=_told(*texts))


def _lonely(line: JsonObject, where: str) -> Difference:
    split, step = _key(line)
    return Difference(what=f"metric line of {split}", step=step, detail=f"only in the {where}")


def _key(line: JsonObject) -> tuple[str, int]:
    step = line["step"]
    assert isinstance(step, int), "read_lines checks it"
    return str(line.get("split")), step


def record_differences(
    recorded: SnapshotRecord, replayed: SnapshotRecord, tolerance: float | None
) -> Iterator[Difference]:
    """Compares two records, but for the versions, the provenance and the config.

    States of listeners are compared that the replay has; the others do not run in a replay. That an
    evaluation was cut short, and which spot checks passed, is no result of the config, and not
    compared.
    """
    step = recorded.progress.step
    old, new = _parts(recorded), _parts(replayed)
    old["listeners"] = {name: old["listeners"].get(name) for name in new["listeners"]}
    # What a release did not record, another one may.
    same_release = recorded.run.versions.get("aetheria") == replayed.run.versions.get("aetheria")
    for path, *texts in json_differences(old, new, tolerance):
        if same_release or texts[0] != _MISSING:
            yield Difference(what=f"record: {path}", step=step, detail=_told(*texts))


def _parts(record: SnapshotRecord) -> dict[str, dict[str, object]]:
    engine = to_json(replace(record.engine, pending=None, passed_check=None))
    return {
        "progress": dict(mapping(to_json(record.progress))),
        "engine": dict(mapping(engine)),
        "listeners": dict(record.listeners),
        "run": _run_parts(record.run),
    }


def _run_parts(run: RunRecord) -> dict[str, object]:
    parts = {name: to_json(getattr(run, name)) for name in _OF_THE_RUN}
    if run.resolved is not None:
        parts |= {name: to_json(getattr(run.resolved, name)) for name in _RESOLVED}
    return {name: value for name, value in parts.items() if value is not None}


def json_differences(
    old: object, new: object, tolerance: float | None, path: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Compares two JSON values at every depth; yields the path, and how both values read.

    >>> list(json_differences({"a": [1, 2.0]}, {"a": [1, 2.5]}, None))
    [('a.1', '2.0', '2.5')]
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            inner = f"{path}.{name}" if path else str(name)
            if name not in old or name not in new:
                yield inner, _shown(old.get(name)), _shown(new.get(name))
            else:
                yield from json_differences(old[name], new[name], tolerance, inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from json_differences(*pair, tolerance, f"{path}.{index}")
    elif json.dumps(old) != json.dumps(new) and not _is_close(old, new, tolerance):
        yield path, _shown(old), _shown(new)


def _is_close(old: object, new: object, tolerance: float | None) -> bool:
    if tolerance is None or not (isinstance(old, float) and isinstance(new, float)):
        return False
    return math.isfinite(new) and abs(old - new) <= tolerance * max(1.0, abs(old))


def _shown(value: object) -> str:
    return _MISSING if value is None else json.dumps(value)[:80]


def _told(recorded: str, replayed: str) -> str:
    return f"{recorded} in the record, {replayed} replayed"
