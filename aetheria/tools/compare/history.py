"""What a run folder says of one run: under which records its steps were computed, and what is left
of it. Reads; writes nothing. Knows no second run.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aetheria.config.files import BESIDE_CONFIG
from aetheria.engine.record import (
    ForkedFrom,
    ImportedFrom,
    Lineage,
    Provenance,
    ResolvedArguments,
    RunRecord,
)
from aetheria.engine.typed_json import JsonObject, read_json
from aetheria.errors import SnapshotError
from aetheria.snapshots.finding import forked_from
from aetheria.snapshots.retention import SnapshotInfo
from aetheria.snapshots.run_folder import STARTS, is_run, what_is_there
from aetheria.snapshots.store import read_record
from aetheria.training.run_info import RunInfo, mapping, read_object, read_run

Part = TypeVar("Part")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "aetheria")


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Steps that were computed under one record.

    Attributes:
        first_step: the step that they follow; they end where the next stretch begins.
        record: config, versions, machine, data and code.
    """

    first_step: int
    record: RunRecord


@dataclass(frozen=True, kw_only=True)
class History:
    """One run.

    Attributes:
        name: `A` or `B`.
        path: its folder.
        info: its status, its last step, its processes.
        stretches: in the order of the steps; at least one.
        snapshots: with those of the run that it was forked from, up to the fork; the oldest first.
        origins: the commits and the changes beside them that its processes were started from.
        problems: what cannot be read, a line each.
    """

    name: str
    path: Path
    info: RunInfo
    stretches: Sequence[Stretch]
    snapshots: Sequence[SnapshotInfo]
    origins: Mapping[str, str]
    problems: Sequence[str]

    def record_after(self, step: int) -> RunRecord:
        """The record under which the step after `step` was computed."""
        first, *later = self.stretches
        for each in later:
            if each.first_step <= step:
                first = each
        return first.record

    @property
    def state(self) -> str:
        """How far it came, in words."""
        step = "no step" if self.info.step is None else f"step {self.info.step}"
        return f"{step} ({self.info.status})"


def read_history(name: str, folder: Path) -> History:
    """Reads a run.

    Raises:
        SnapshotError: the folder is no run.
    """
    if not is_run(folder):
        raise SnapshotError(
            f"compare: expected a run folder, got {folder} ({what_is_there(folder)}); name another"
        )
    info = read_run(folder)
    problems = [info.problem] if info.problem else []
    fork = _fork_step(info)
    snapshots, stretches = _of_parent(folder, fork, problems)
    stretches += _own_stretches(info, fork, problems)
    if not stretches:
        raise SnapshotError(
            f"compare: expected a run folder with a config.json or a snapshot that can be read, "
            f"got {folder} ({'; '.join(problems) or 'neither'}); name another"
        )
    return History(
        name=name,
        path=folder,
        info=info,
        stretches=stretches,
        snapshots=[*snapshots, *info.snapshots],
        origins=_read_starts(folder),
        problems=problems,
    )


def _fork_step(info: RunInfo) -> int:
    """The step at which a run was forked from another; 0: it was not."""
    step = mapping(info.config.get("lineage")).get("step")
    return step if isinstance(step, int) else 0


def _of_parent(
    folder: Path, fork: int, problems: list[str]
) -> tuple[list[SnapshotInfo], list[Stretch]]:
    """Snapshots and stretches of the run that a run was forked from, up to the fork."""
    try:
        found = forked_from(folder)
    except SnapshotError:
        problems.append("the run that it was forked from is gone, with the steps up to there")
        return [], []
    if found is None:
        return [], []
    parent = read_run(found[0])
    stretches = [each for each in _own_stretches(parent, 0, []) if each.first_step < fork]
    return [s for s in parent.snapshots if s.step is not None and s.step <= fork], stretches


def _own_stretches(info: RunInfo, first_step: int, problems: list[str]) -> list[Stretch]:
    """What its snapshots and its newest files record, beginning at `first_step`."""
    starts = [int(session.first_step) for session in info.sessions]
    stretches: list[Stretch] = []
    before = first_step
    for snapshot in info.snapshots:
        if snapshot.step is None:
            continue  # reading its arrays says why
        try:
            record = read_record(snapshot.path).run
        except SnapshotError:
            continue  # a living run has retired it meanwhile
        if not stretches:
            stretches.append(Stretch(first_step=first_step, record=record))
        elif record != stretches[-1].record:
            begin = max([s for s in starts if before <= s < snapshot.step], default=before)
            stretches.append(Stretch(first_step=begin, record=record))
        before = snapshot.step
    newest = _newest_record(info, problems)
    if newest is not None and (not stretches or newest != stretches[-1].record):
        begin = max(first_step, starts[-1]) if starts else before
        stretches = [each for each in stretches if each.first_step < begin]
        begin = begin if stretches else first_step
        stretches.append(Stretch(first_step=begin, record=newest))
    return stretches


def _newest_record(info: RunInfo, problems: list[str]) -> RunRecord | None:
    """What the run's last process recorded in files; None: there is no config."""
    config = {k: v for k, v in info.config.items() if k not in BESIDE_CONFIG}
    if not config:
        return None
    known = next((r for r in map(_record_of, reversed(info.snapshots)) if r is not None), None)
    versions = _versions(info) or ({} if known is None else known.versions)
    try:
        return RunRecord(
            config=config,
            example_spec={} if known is None else known.example_spec,
            versions=versions,
            lineage=_lineage(info.config.get("lineage")),
            resolved=_read(ResolvedArguments, info.config.get("resolved"), "resolved"),
            provenance=_read(
                Provenance, read_object(info.path / "provenance.json", problems), "provenance"
            ),
            encoding=None if known is None else known.encoding,
            input_ranges=None if known is None else known.input_ranges,
        )
    except SnapshotError as error:
        problems.append(f"config.json: {error}")
        return None


def _record_of(snapshot: SnapshotInfo) -> RunRecord | None:
    try:
        return read_record(snapshot.path).run
    except SnapshotError:
        return None


def _read(kind: type[Part], value: object, where: str) -> Part | None:
    """A part of a record; None: it is not there, or of another layout."""
    try:
        return read_json(kind, value, where) if value else None
    except SnapshotError:
        return None


def _lineage(value: object) -> Lineage | None:
    if "file" in mapping(value):
        return _read(ImportedFrom, value, "lineage")
    return _read(ForkedFrom, value, "lineage")


def _versions(info: RunInfo) -> Mapping[str, str]:
    """Of the run's last process: from its summary, or from what it wrote at its start."""
    said = mapping(info.summary.get("versions"))
    if not said and (starts := _starts(info.path)):
        packages = mapping(starts[-1][1].get("packages"))
        underscored = {name: packages.get(name.replace("-", "_")) for name in _PACKAGES}
        said = {name: v for name, v in underscored.items() if v is not None}
        said = {**said, "python": starts[-1][1].get("python")} if said else said
    return {name: str(version) for name, version in said.items()}


def _starts(folder: Path) -> list[tuple[Path, JsonObject]]:
    files = [f for f in (folder / STARTS).glob("*.json") if re.fullmatch(r"\d{1,9}", f.stem)]
    files.sort(key=lambda file: int(file.stem))
    return [(file, found) for file in files if (found := read_object(file, []))]


def _read_starts(folder: Path) -> dict[str, str]:
    """What git said at each start, and the other packages of the last one."""
    commits: list[str] = []
    changes: list[str] = []
    starts = _starts(folder)
    for file, start in starts:
        git = mapping(start.get("git"))
        commits.append(str(git.get("commit", "none"))[:12])
        diff = file.with_suffix(".diff")
        text = diff.read_bytes() if git.get("diff") and diff.is_file() else b""
        changed = f"a diff with sha256 {hashlib.sha256(text).hexdigest()[:12]}"
        changes.append(changed if text else "none")
    if not starts:
        return {}
    then = lambda texts: ", then ".join(dict.fromkeys(texts))
    return {"git commit": then(commits), "uncommitted changes": then(changes)}
