"""Which run folder and which snapshot a request stands for.

Resolving writes nothing: a wrong request leaves everything as it was. `RunPlan.prepare` writes, in
a folder that `aetheria.snapshots.claim` has locked for this process.
"""

from dataclasses import dataclass, field
from pathlib import Path

from aetheria.config.paths import check_local
from aetheria.engine.interfaces import Snapshot
from aetheria.errors import SnapshotError
from aetheria.snapshots.finding import find_snapshot, forked_from
from aetheria.snapshots.retention import Retention, SnapshotInfo
from aetheria.snapshots.run_folder import (
    CHECKPOINTS,
    RUNS,
    Contents,
    failed_at_start,
    is_run,
    look,
    newest_run,
    next_run,
    some,
    what_is_there,
)
from aetheria.snapshots.run_lock import refuse_if_held
from aetheria.snapshots.run_plan import RunPlan
from aetheria.snapshots.snapshot_files import read_snapshot
from aetheria.snapshots.store import find_newest, list_snapshots, snapshot_info


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asked for.

    Attributes:
        config_name: the config file's name without its ending.
        workdir: the run folder; None: a new one under `runs/<config name>/`.
        resume: None, `auto`, `latest`, `best`, a step, or a path.
        overwrite: whether an earlier run in `workdir` may be removed.
        retention: says what `best` means.
    """

    config_name: str
    workdir: Path | None = None
    resume: str | None = None
    overwrite: bool = False
    retention: Retention = field(default_factory=Retention)

    def resolve(self) -> RunPlan:
        """Finds the folder and the snapshot.

        Raises:
            SnapshotError: there is no such snapshot, all are damaged, a run would be overwritten,
                or a living process holds the folder.
        """
        check_local("--workdir", self.workdir)
        check_local("--resume", self.resume)
        if self.workdir is not None:
            refuse_if_held(self.workdir)
        if self.resume is None:
            return self._afresh()
        if self.overwrite:
            raise SnapshotError(
                "--overwrite: expected it without --resume, got both; a resumed run overwrites "
                "nothing"
            )
        current = self.workdir or newest_run(self.config_name)
        if self.resume in ("auto", "latest"):
            return self._newest(current)
        return self._from(self._choose(current))

    def _afresh(self) -> RunPlan:
        if self.workdir is None:
            return self._next()
        overwrite = self.overwrite or failed_at_start(self.workdir)
        if is_run(self.workdir) and not overwrite:
            raise SnapshotError(
                f"--workdir: expected a folder without a run, got {self.workdir}; "
                "add --resume=latest to go on with it, or --overwrite to replace it"
            )
        found = None if overwrite else look(self.workdir)
        return RunPlan(run_dir=self.workdir, overwrite=overwrite, found=found)

    def _next(self, snapshot: Snapshot | None = None, parent: Path | None = None) -> RunPlan:
        """Plans a run in the next folder under `runs/`."""
        folder = next_run(self.config_name)
        return RunPlan(run_dir=folder, snapshot=snapshot, parent=parent, numbered=True)

    def _newest(self, current: Path | None) -> RunPlan:
        if current is None:
            return self._without_snapshot(None)
        refuse_if_held(current)
        found = look(current)
        newest, damaged = find_newest(current / CHECKPOINTS)
        if newest is not None:
            return RunPlan(run_dir=current, snapshot=newest, damaged=tuple(damaged), found=found)
        if damaged:
            raise SnapshotError(f"{damaged[0][1]} (no other snapshot in {current} is sound)")
        if (origin := forked_from(current)) is not None:
            parent, path = origin
            return RunPlan(
                run_dir=current, snapshot=read_snapshot(path), parent=parent, found=found
            )
        return self._without_snapshot(current, found)

    def _without_snapshot(self, current: Path | None, found: Contents | None = None) -> RunPlan:
        if self.resume == "auto":
            return self._next() if current is None else RunPlan(run_dir=current, found=found)
        where = current or RUNS / self.config_name
        raise SnapshotError(
            f"--resume: expected a snapshot in {where}, got none; start without --resume, or with "
            "--resume=auto"
        )

    def _choose(self, current: Path | None) -> SnapshotInfo:
        """Finds the one snapshot that `best`, a step or a path stands for."""
        assert self.resume is not None
        infos = list_snapshots(current / CHECKPOINTS) if current else []
        if self.resume != "best" and not self.resume.isdigit():
            return snapshot_info(find_snapshot(self.resume, [current] if current else []))
        found = self.retention.select(infos, self.resume)
        if not found:
            is_best = self.resume == "best"
            what = f"with {self.retention.monitor}" if is_best else f"of step {self.resume}"
            where = current or RUNS / self.config_name
            there = some(info.path.name for info in infos) if infos else what_is_there(where)
            got = there if infos else f"none ({there})"
            raise SnapshotError(
                f"--resume: expected a snapshot {what} in {where}, got {got}; name one"
            )
        return found[0]

    def _from(self, info: SnapshotInfo) -> RunPlan:
        """Goes on in the snapshot's own run if it is the newest there, else forks."""
        in_run = info.path.parent.name == CHECKPOINTS
        owner = info.path.parent.parent if in_run else info.path.parent
        found = look(owner)
        is_newest = in_run and list_snapshots(info.path.parent)[-1].path.name == info.path.name
        if self.workdir is not None and self.workdir.resolve() != owner.resolve():
            return self._fork(info, owner, self.workdir)
        if is_newest:
            refuse_if_held(owner)
            return RunPlan(run_dir=owner, snapshot=read_snapshot(info.path), found=found)
        if self.workdir is not None:
            raise SnapshotError(
                f"--workdir: expected another folder than {owner}, which goes on from its newest "
                f"snapshot alone, got a resume from {info.path.name}; name a new folder to fork "
                f"into, with --resume={info.path}"
            )
        return self._next(snapshot=read_snapshot(info.path), parent=owner)

    def _fork(self, info: SnapshotInfo, owner: Path, into: Path) -> RunPlan:
        if is_run(into):
            raise SnapshotError(
                f"--workdir: expected a folder without a run to fork into, got {into}; name another"
            )
        there, snapshot = look(into), read_snapshot(info.path)
        return RunPlan(run_dir=into, snapshot=snapshot, parent=owner, found=there)
