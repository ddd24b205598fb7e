"""The proof on one run: chooses intervals, lets child processes replay them, and judges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aetheria.errors import AetheriaError
from aetheria.snapshots.retention import SnapshotInfo
from aetheria.snapshots.run_lock import living_holder
from aetheria.tools.prove.replay.differences import Difference
from aetheria.tools.prove.replay.group import (
    Answer,
    Group,
    cut_into_groups,
    replay_in_child,
)
from aetheria.tools.prove.replay.history import History
from aetheria.tools.prove.replay.intervals import Choice, Interval, all_intervals, read_snapshots
from aetheria.tools.prove.replay.replayed import Replayed
from aetheria.tools.prove.replay.setup import Setup


@dataclass(kw_only=True)
class Verdict:
    """What the proof found.

    Attributes:
        run_dir: the run.
        choice: which intervals were asked for.
        num_intervals: how many the run has.
        tolerance: None: no bit may differ.
        devices: those of the replay, in words; of several groups of intervals, each once.
        notes: a line for each thing that is not as it was recorded, or that is not compared.
        differences: of the records among each other.
        rows: the intervals that were replayed.
    """

    run_dir: Path
    choice: Choice
    num_intervals: int
    tolerance: float | None
    devices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    rows: list[Replayed] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return self.first is None

    @property
    def first(self) -> Difference | None:
        """The first difference of the earliest step; None: there is none."""
        everything = [*self.differences, *(d for row in self.rows for d in row.differences)]
        known = [each for each in everything if each.step is not None]
        return min(known or everything, key=lambda each: each.step or 0, default=None)


@dataclass(frozen=True, kw_only=True)
class ReplayProof:
    """Replays intervals of a run.

    Attributes:
        run_dir: the run, which is only read.
        choice: which intervals.
        setup: what the user decides.
        traceback: print the whole traceback of an error in the user's code.
        replay: replays a group of intervals of one config.
    """

    run_dir: Path
    choice: Choice
    setup: Setup
    traceback: bool = False
    replay: Callable[[Group, Answer], None] = replay_in_child

    def run(self, say: Callable[[str], None]) -> Verdict:
        """Replays and compares; `say` gets notes and progress.

        Raises:
            AetheriaError: the run cannot be replayed.
            ChildFailed: an error in the user's code, which is on stderr.
        """
        infos, unreadable = read_snapshots(self.run_dir)
        intervals, gaps = all_intervals(infos)
        if not intervals and not unreadable:
            raise AetheriaError(
                f"{self.run_dir}: expected an interval that can be replayed, got only the one "
                f"{gaps[0]}; put it back, or train on to another snapshot"
            )
        chosen = self.choice.of(intervals) if intervals else []
        verdict = Verdict(
            run_dir=self.run_dir,
            choice=self.choice,
            num_intervals=len(intervals),
            tolerance=self.setup.tolerance,
        )

        def note(line: str) -> None:
            if line not in verdict.notes:
                verdict.notes.append(line)
                say(line)

        if (holder := living_holder(self.run_dir)) is not None:
            note(f"the run is still under way, in {holder}: what follows its snapshots is left out")
        for gap in gaps if self.choice.everything else []:
            note(f"not replayed: the interval {gap}")
        for path in unreadable:
            detail = f"{path.name}: expected a record, got none that can be read"
            verdict.differences.append(Difference(what="snapshot", step=None, detail=detail))
        history = History(self.run_dir)
        self._judge_history(history, chosen, infos, verdict, note)
        for together in cut_into_groups(chosen):
            self._replay(together, verdict, note, say)
        for row in verdict.rows:
            if row.differences and (steps := history.starts_within(row.interval)):
                note(
                    f"{row.interval.name}: a process started at step {steps[0]}, between the "
                    "snapshots; if its config was another one there, no snapshot says so"
                )
        return verdict

    def _judge_history(
        self,
        history: History,
        chosen: Sequence[Interval],
        infos: Sequence[SnapshotInfo],
        verdict: Verdict,
        note: Callable[[str], None],
    ) -> None:
        for found in history.changes(chosen, infos[-1]) if infos else ():
            if isinstance(found, Difference):
                verdict.differences.append(found)
            else:
                note(found)

    def _replay(
        self,
        intervals: Sequence[Interval],
        verdict: Verdict,
        note: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        def answer(kind: str, value: Any) -> None:
            if kind == "note":
                note(value)
            elif kind == "devices" and value not in verdict.devices:
                verdict.devices.append(value)
            elif kind == "replayed":
                row = Replayed.from_json(value)
                verdict.rows.append(row)
                say(f"steps {row.interval.name}: done in {row.seconds:.1f} s")

        group = Group(
            run_dir=self.run_dir,
            intervals=intervals,
            setup=self.setup,
            traceback=self.traceback,
        )
        self.replay(group, answer)
