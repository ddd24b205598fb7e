"""What is recorded of two runs and differs: config, data, code, settings, devices, versions,
machine, git and listeners; since which step, and whether that may change a bit. Computes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aetheria.engine.record import CodeDigest, DataFingerprint, ImportedFrom, Lineage, RunRecord
from aetheria.engine.typed_json import JsonObject
from aetheria.snapshots.changes import Change, differences
from aetheria.snapshots.config_diff import config_changes, with_all_keys
from aetheria.tools.compare.history import History

# In this order, one of them is taken for a cause.
Group = Literal[
    "seed",
    "config",
    "origin",
    "data",
    "code",
    "settings",
    "devices",
    "versions",
    "machine",
    "git",
    "listeners",
]
DATA_KEYS = ("data_name", "data_params", "overfit_batches")
_LISTENERS = ("loggers", "callbacks")
_COUNTS = ("num_devices", "num_processes")
_MAX_TEXT = 200
Rows = tuple[int, int]  # the first row, and the row after the last


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is recorded of both runs and differs.

    Attributes:
        group: what kind of thing it is.
        path: its name, such as `model_params.hidden_dim`.
        a: how it reads in A.
        b: how it reads in B.
        since: the step after which it differs.
        may_change_bits: whether it can change what is computed.
    """

    group: Group
    path: str
    a: str
    b: str
    since: int = 0
    may_change_bits: bool = True


def compare_records(a: History, b: History, step: int) -> list[Difference]:
    """What differs in the records under which the step after `step` was computed, and since when,
    without a gap.
    """
    found = list(_differences(a.record_after(step), b.record_after(step)))
    found += [
        Difference(group="git", path=path, a=a.origins.get(path, ""), b=b.origins.get(path, ""))
        for path in {**a.origins, **b.origins}
        if path in a.origins and path in b.origins and a.origins[path] != b.origins[path]
    ]
    starts = sorted({s.first_step for s in (*a.stretches, *b.stretches) if s.first_step <= step})
    since = dict.fromkeys(found, step)
    still = set(found)
    for start in reversed(starts):
        then = list(_differences(a.record_after(start), b.record_after(start)))
        still = {each for each in still if each in then or each.group == "git"}
        since |= dict.fromkeys(still, start)
    return [_since(each, since[each]) for each in found]


def _since(difference: Difference, step: int) -> Difference:
    # Where a fork begins, its state was compared by itself.
    matters = difference.may_change_bits and not (difference.group == "origin" and step > 0)
    return replace(difference, since=step, may_change_bits=matters)


def differing_rows(a: RunRecord, b: RunRecord, split: str = "train") -> list[Rows]:
    """The ranges of rows of a split whose digests differ, of those that both fingerprints have."""
    pair = _fingerprints(a, b, split)
    if pair is None or pair[0].num_examples != pair[1].num_examples:
        return []
    parts = zip(pair[0].parts, pair[1].parts, strict=False)
    return [(o[0], o[1]) for o, other in parts if o[:2] == other[:2] and o[2] != other[2]]


def _fingerprints(
    a: RunRecord, b: RunRecord, split: str
) -> tuple[DataFingerprint, DataFingerprint] | None:
    if a.provenance is None or b.provenance is None:
        return None
    one, other = a.provenance.data.get(split), b.provenance.data.get(split)
    return None if one is None or other is None else (one, other)


def _differences(a: RunRecord, b: RunRecord) -> Iterator[Difference]:
    yield from _of_config(a, b)
    yield from _of_origin(a.lineage, b.lineage)
    if a.provenance is not None and b.provenance is not None:
        yield from _of_data(a, b)
        yield from _of_code(a.provenance.code, b.provenance.code)
        for path, *texts in _common(a.provenance.settings, b.provenance.settings):
            yield _difference("settings", path, *texts)
        yield from _of_machine(a, b)
    for path, *texts in _common(a.versions, b.versions):
        yield _difference("versions", path, *texts)


def _of_config(a: RunRecord, b: RunRecord) -> Iterator[Difference]:
    same_data = _same_data(a, b)
    elastic = a.is_elastic and b.is_elastic
    # Of a record without resolved arguments, the config alone can be compared.
    resolved = {} if a.resolved is not None and b.resolved is not None else {"resolved": None}
    for change in config_changes(*(replace(with_all_keys(each), **resolved) for each in (a, b))):
        key = change.path.split(".")[0]
        group, matters = "config", change.kind != "free"
        if key == "seed":
            group = "seed"
        elif key in DATA_KEYS:
            group, matters = "data", not same_data
        elif key in _LISTENERS:
            group = "listeners"
        elif key == "strategy":
            matters = "torch" in (a.config.get(key), b.config.get(key))
        elif key == "mesh":
            group, matters = "devices", not elastic and _mesh(a) != _mesh(b)
        elif key == "lanes":
            matters = elastic
        elif key == "grad_accumulation_steps":
            matters = not elastic  # lanes take their place
        for path, *texts in _items(a, b, change):
            yield _difference(group, path, *texts, matters=matters)


def _items(a: RunRecord, b: RunRecord, change: Change) -> Iterator[tuple[str, str, str]]:
    """A change of a key with values by name: each of these that differs."""
    one, other = a.config.get(change.path), b.config.get(change.path)
    if isinstance(one, Mapping) and isinstance(other, Mapping) and change.path != "mesh":
        for name, mine, others in differences(one, other):
            yield f"{change.path}.{name}", mine, others
    else:
        yield change.path, str(change.before), change.now


def _same_data(a: RunRecord, b: RunRecord) -> bool:
    """Whether every row of the training split is known to be the same."""
    pair = _fingerprints(a, b, "train")
    if pair is None or pair[0] != pair[1]:
        return False
    return sum(stop - start for start, stop, _ in pair[0].parts) == pair[0].num_examples


def _mesh(record: RunRecord) -> Mapping[str, object]:
    """The mesh of a run; where the config leaves it out, all devices on the axis `data`."""
    mesh = record.config.get("mesh")
    if isinstance(mesh, Mapping) and mesh:
        return mesh
    return {"data": record.machine.get("num_devices")}


def _of_origin(a: Lineage | None, b: Lineage | None) -> Iterator[Difference]:
    if a != b:
        yield _difference("origin", "lineage", _origin(a), _origin(b))


def _origin(lineage: Lineage | None) -> str:
    if lineage is None:
        return "none"
    return (
        lineage.file
        if isinstance(lineage, ImportedFrom)
        else f"{lineage.snapshot} of {lineage.run}"
    )


def _of_data(a: RunRecord, b: RunRecord) -> Iterator[Difference]:
    assert a.provenance is not None and b.provenance is not None
    for split in (name for name in a.provenance.data if name in b.provenance.data):
        one, other = a.provenance.data[split], b.provenance.data[split]
        path = f"{split} split"
        if one.num_examples != other.num_examples:
            texts = (f"{each.num_examples} examples" for each in (one, other))
            yield _difference("data", path, *texts)
        for name, *texts in differences(one.columns, other.columns):
            yield _difference("data", f"{path}, column {name}", *texts)
        if rows := differing_rows(a, b, split):
            yield _difference("data", f"{path}, {describe_rows(rows)}", "", "other values")


def describe_rows(rows: Sequence[Rows]) -> str:
    """Some ranges in words, the first of them by its bounds.

    >>> describe_rows([(3, 4)]), describe_rows([(0, 8), (16, 24)])
    ('row 3', 'rows 0 to 7 and 1 other range of rows')
    """
    (start, stop), *others = rows
    first = f"row {start}" if stop - start == 1 else f"rows {start} to {stop - 1}"
    if not others:
        return first
    return f"{first} and {len(others)} other range{'s' if len(others) > 1 else ''} of rows"


def _of_code(
    a: Mapping[str, CodeDigest | None], b: Mapping[str, CodeDigest | None]
) -> Iterator[Difference]:
    """Each file once; of a part that one run lacks, such as a logger, the config speaks."""
    pairs = [(part, one, other) for part, one in a.items() if (other := b.get(part)) and one]
    seen: set[str] = set()
    for part, one, other in pairs:
        group: Group = "listeners" if part.split(".")[0] in _LISTENERS else "code"
        mine = {one.file: one.sha256, **one.imports}
        theirs = {other.file: other.sha256, **other.imports}
        for file in mine.keys() & theirs.keys() - seen:
            if mine[file] != theirs[file]:
                seen.add(file)
                texts = (f"sha256 {each[file][:12]}" for each in (mine, theirs))
                yield _difference(group, file, *texts)


def _of_machine(a: RunRecord, b: RunRecord) -> Iterator[Difference]:
    assert a.provenance is not None and b.provenance is not None
    elastic = a.is_elastic and b.is_elastic
    for path, *texts in _common(a.provenance.machine, b.provenance.machine):
        is_count = path in _COUNTS
        matters = not (elastic and (is_count or path in ("num_cores", "num_threads")))
        yield _difference("devices" if is_count else "machine", path, *texts, matters=matters)


def _common(a: JsonObject, b: JsonObject) -> Iterator[tuple[str, str, str]]:
    """The differences in what both have: another release or framework has other names."""
    both = [name for name in b if name in a]
    yield from differences({n: a[n] for n in both}, {n: b[n] for n in both})


def _difference(group: Group, path: str, a: str, b: str, *, matters: bool = True) -> Difference:
    matters = matters and group != "listeners"
    return Difference(group=group, path=path, a=_short(a), b=_short(b), may_change_bits=matters)


def _short(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
