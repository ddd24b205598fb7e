"""How a run that resumes differs from the record of its snapshot in code, settings, data, machine
and versions. What a record lacks, since an older release wrote it or the run was imported, is not
compared.
"""

from collections.abc import Iterator, Mapping

from aetheria.engine.record import CodeDigest, DataFingerprint, RunRecord
from aetheria.engine.typed_json import JsonObject
from aetheria.snapshots.changes import Change, differences

_NEEDS_ACCEPTANCE = "set it as it was, or add --accept-changes"
# Elastic runs do not depend on these.
_COUNTS = ("num_devices", "num_processes", "num_cores", "num_threads")


def file_of(run: RunRecord, part: str) -> str:
    """The file that defines a part of a run, such as `model`."""
    known = None if run.provenance is None else run.provenance.code.get(part)
    return f"the code of {part}" if known is None else known.file


def provenance_changes(before: RunRecord, now: RunRecord) -> Iterator[Change]:
    """Compares what two runs depend on beside their configs.

    Settings and data decide what the run computes from here on, so the user must accept a change.
    Code may have changed by a comment alone, and another machine or version may give the same
    bits, so these changes are only reported.
    """
    if before.provenance is not None and now.provenance is not None:
        old, new = before.provenance, now.provenance
        yield from _code_changes(old.code, new.code)
        yield from _augment_changes(old.code, new.code)
        for name, *texts in _common_differences(old.settings, new.settings):
            yield _setting_change(name, *texts)
        for split in (name for name in old.data if name in new.data):
            yield from _data_changes(f"data.{split}", old.data[split], new.data[split])
        left_out = _COUNTS if now.is_elastic else ()
        for name, *texts in _common_differences(old.machine, new.machine):
            if name not in left_out:
                yield _may_differ(f"machine.{name}", *texts)
    for name, *texts in _common_differences(before.versions, now.versions):
        yield _may_differ(f"versions.{name}", *texts)


def _code_changes(
    before: Mapping[str, CodeDigest | None], now: Mapping[str, CodeDigest | None]
) -> Iterator[Change]:
    """Reports each changed file once, with the parts that it belongs to."""
    parts: dict[str, list[str]] = {}
    for part in before.keys() & now.keys():
        old, new = before[part], now[part]
        if old is None or new is None:
            continue
        if old.sha256 != new.sha256:
            parts.setdefault(new.file, []).append(part)
        for file in old.imports.keys() & new.imports.keys():
            if old.imports[file] != new.imports[file]:
                parts.setdefault(file, []).append(f"imported by {part}")
    for file, names in sorted(parts.items()):
        path = f"code of {', '.join(sorted(names))}"
        yield Change(path=path, before=None, now=f"another {file}", kind="free")


def _augment_changes(
    before: Mapping[str, CodeDigest | None], now: Mapping[str, CodeDigest | None]
) -> Iterator[Change]:
    """Reports an augmentation that came or went. Which function it is only its code says."""
    if ("augment" in before) != ("augment" in now):
        texts = [_describe_augment(code) for code in (before, now)]
        yield _data_change("data.augment", *texts)


def _describe_augment(code: Mapping[str, CodeDigest | None]) -> str:
    if "augment" not in code:
        return "none"
    known = code["augment"]
    return "a function" if known is None else f"a function of {known.file}"


def _data_changes(path: str, before: DataFingerprint, now: DataFingerprint) -> Iterator[Change]:
    """Compares two fingerprints; digests where both have one of the same rows."""
    old, new = before.num_examples, now.num_examples
    if old != new:
        yield _data_change(path, f"{old} examples", f"{new} examples")
    columns = list(differences(before.columns, now.columns))
    for name, *texts in columns:
        yield _data_change(f"{path}.{name}", *(text.strip('"') for text in texts))
    pairs = zip(before.parts, now.parts, strict=False)
    changed = [mine[:2] for theirs, mine in pairs if mine[:2] == theirs[:2] and mine != theirs]
    if changed and old == new and not columns:
        (start, stop), *others = changed
        rows = f"row {start}" if stop - start == 1 else f"rows {start} to {stop - 1}"
        more = f" and in {len(others)} other places" if others else ""
        yield _data_change(path, None, f"other values in {rows}{more}")


def _data_change(path: str, before: str | None, now: str) -> Change:
    advice = "bring back the data of then, or add --accept-changes"
    return Change(path=path, before=before, now=now, kind="schedule", advice=advice)


def _setting_change(path: str, before: str, now: str) -> Change:
    return Change(path=path, before=before, now=now, kind="schedule", advice=_NEEDS_ACCEPTANCE)


def _may_differ(path: str, before: str, now: str) -> Change:
    reason = "results may differ in their last bits"
    return Change(path=path, before=before, now=now, kind="free", reason=reason)


def _common_differences(before: JsonObject, now: JsonObject) -> Iterator[tuple[str, str, str]]:
    """The differences in what both have: another version or framework has other names."""
    both = [name for name in now if name in before]
    yield from differences({n: before[n] for n in both}, {n: now[n] for n in both})
