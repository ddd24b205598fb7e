"""What a run was made of, as every snapshot records it: resolved arguments, code, settings, the
machine, and fingerprints of the data. A run that goes on is compared with it.

A snapshot may lack any of these: an older release wrote it, or it was imported from weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aetheria.snapshots.changes import Change, differences

_NEEDS_ACCEPTANCE = "set it as it was, or add --accept-changes"
# What elastic runs do not depend on.
_COUNTS = ("num_devices", "num_processes", "num_cores", "num_threads")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that decides a run beside its config and its state; JSON values.

    Attributes:
        resolved: `model_params`, `data_params`: argument -> value, defaults included; `loggers`,
            `callbacks`: name -> the same of each.
        code: `model`, `data`, `loggers.<name>`, `callbacks.<name>` -> `file`, its `sha256`, and
            `imports`: the user's own files that it imports -> sha256.
        settings: of JAX, XLA and PyTorch, as far as they change numbers.
        machine: processor, devices, how many processes.
        data: `train`, `eval` -> fingerprint of the split.
        versions: of Python and the libraries.
        is_elastic: whether the bits do not depend on how many devices there are.
    """

    resolved: Mapping[str, Any]
    code: Mapping[str, Any]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    is_elastic: bool = False

    def record(self) -> dict[str, Any]:
        """The part of a snapshot's record that this is."""
        return {"resolved": self.resolved, "provenance": self.details()}

    def details(self) -> dict[str, Any]:
        """All but the resolved arguments, which stand in `config.json`, and the versions."""
        return {
            "code": self.code,
            "settings": self.settings,
            "machine": self.machine,
            "data": self.data,
        }

    def file_of(self, part: str) -> str:
        """The file that defines a part, such as `model`."""
        return self.code[part]["file"] if self.code.get(part) else f"the code of {part}"

    def changes_since(self, record: Mapping[str, Any]) -> Iterator[Change]:
        """Compares a snapshot's record with this; what the record lacks is not compared.

        Settings and data decide what the run computes from here on, so a change must be accepted.
        Code may have changed by a comment alone, and another machine or version may give the same
        bits: these are named.
        """
        before = record.get("provenance", {})
        yield from self._code_changes(before.get("code", {}))
        for name, old, new in _common(before.get("settings", {}), self.settings):
            advice = _NEEDS_ACCEPTANCE
            yield Change(path=name, before=old, now=new, kind="schedule", advice=advice)
        for split in before.get("data", {}):
            yield from _data_changes(f"data.{split}", before["data"][split], self.data[split])
        left_out = _COUNTS if self.is_elastic else ()
        for name, old, new in _common(before.get("machine", {}), self.machine):
            if name not in left_out:
                yield _may_differ(f"machine.{name}", old, new)
        for name, old, new in _common(record.get("versions", {}), self.versions):
            yield _may_differ(f"versions.{name}", old, new)

    def _code_changes(self, before: Mapping[str, Any]) -> Iterator[Change]:
        """Names each changed file once, with the parts that it belongs to."""
        parts: dict[str, list[str]] = {}
        for part in before.keys() & self.code.keys():
            old, new = before[part], self.code[part]
            if old is None or new is None:
                continue
            if old["sha256"] != new["sha256"]:
                parts.setdefault(new["file"], []).append(part)
            for file in old["imports"].keys() & new["imports"].keys():
                if old["imports"][file] != new["imports"][file]:
                    parts.setdefault(file, []).append(f"imported by {part}")
        for file, names in sorted(parts.items()):
            path = f"code of {', '.join(sorted(names))}"
            yield Change(path=path, before=None, now=f"another {file}", kind="free")


def _data_changes(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """Compares two fingerprints; digests where both have them of the same rows."""

    def change(before: str | None, now: str, path: str = path) -> Change:
        advice = "bring back the data of then, or add --accept-changes"
        return Change(path=path, before=before, now=now, kind="schedule", advice=advice)

    old, new = before["num_examples"], now["num_examples"]
    if old != new:
        yield change(f"{old} examples", f"{new} examples")
    columns = list(differences(before["columns"], now["columns"]))
    for name, *texts in columns:
        yield change(*(text.strip('"') for text in texts), path=f"{path}.{name}")
    pairs = zip(before["parts"], now["parts"], strict=False)
    changed = [mine[:2] for theirs, mine in pairs if mine[:2] == theirs[:2] and mine != theirs]
    if changed and old == new and not columns:
        (start, stop), *others = changed
        rows = f"row {start}" if stop - start == 1 else f"rows {start} to {stop - 1}"
        more = f" and in {len(others)} other places" if others else ""
        yield change(None, f"other values in {rows}{more}")


def _may_differ(path: str, old: str, new: str) -> Change:
    reason = "results may differ in their last bits"
    return Change(path=path, before=old, now=new, kind="free", reason=reason)


def _common(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The differences in what both have: another version or framework has other names."""
    both = [name for name in now if name in before]
    yield from differences({n: before[n] for n in both}, {n: now[n] for n in both})
