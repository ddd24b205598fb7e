"""Replays intervals of a run with one program: the run's own engine, from a snapshot to the next.

Runs in a process of its own, since the devices are chosen before JAX starts. Writes into a
temporary folder alone.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from aetheria.build import Run, build_run
from aetheria.build.listeners import choose_listeners
from aetheria.build.snapshots import fit_snapshot
from aetheria.config import Config
from aetheria.engine import Engine, NonFinitePolicy, Outcome
from aetheria.engine.interfaces import Snapshot
from aetheria.engine.record import NewerRecordError, RunRecord, SnapshotRecord
from aetheria.engine.stop import StopSignal
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import SnapshotError
from aetheria.model.optimizers import hyperparameters_of, schedules
from aetheria.observe import EventBus
from aetheria.observe.listener import RunContext
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.config_diff import config_changes
from aetheria.snapshots.provenance import provenance_changes
from aetheria.snapshots.run_plan import RunPlan
from aetheria.tools.prove.replay.differences import (
    Difference,
    leaf_differences,
    line_differences,
    lines_of_interval,
    pending_differences,
    read_lines,
    record_differences,
)
from aetheria.tools.prove.replay.intervals import Interval
from aetheria.tools.prove.replay.replayed import Replayed
from aetheria.tools.prove.replay.watch import (
    CountedDumps,
    KeptSnapshot,
    ReplaySchedule,
    expected_examples,
    watched,
)

METRICS = "metrics.jsonl"


class Replayer:
    """Replays intervals of one config.

    Args:
        run_dir: the run, which is only read.
        config: what the replay trains with.
        project: the project folder.
        folder: a temporary folder.
        tolerance: see `leaf_differences`; None: no bit may differ.
        has_lines: whether the run logged `metrics.jsonl`.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        project: Path,
        *,
        folder: Path,
        tolerance: float | None,
        has_lines: bool,
    ):
        self._config, self._folder, self._project = config, folder, project
        self._tolerance = tolerance
        self._run: Run = build_run(config, RunPlan(run_dir=folder), project)
        self._lines = _lines(run_dir / METRICS) if has_lines else None

    @property
    def devices(self) -> str:
        """Those of the replay, in words."""
        return self._run.devices

    @property
    def record(self) -> RunRecord:
        """What a snapshot of the replay says of the run."""
        return self._run.record

    def notes(self, recorded: SnapshotRecord) -> Iterator[str]:
        """A line for everything that is not as a snapshot recorded it, or is not compared."""
        for change in config_changes(recorded.run, self.record):
            if change.kind != "free":
                yield change.note()
        for change in provenance_changes(recorded.run, self.record):
            yield change.note()
        if recorded.run.provenance is None:
            yield "not compared: code, settings, machine and data, which no snapshot records"
        elif any(split.random for split in recorded.run.provenance.data.values()):
            yield "the data is not the same each time it is read, so the bits will differ"
        if self._lines is None:
            yield f"not compared: metric lines, since the run has no {METRICS}"
        chosen = choose_listeners(self._config, self._project)
        if others := [name for name in recorded.listeners if name not in chosen]:
            yield f"not compared: states of listeners that do not run again: {', '.join(others)}"

    def replay(self, interval: Interval) -> Replayed:
        """Computes an interval and compares what comes of it.

        Raises:
            AetheriaError: a snapshot is not a state of the model.
        """
        started_at = time.perf_counter()
        snapshots = {}
        for path, step in (
            (interval.start, interval.start_step),
            (interval.end, interval.end_step),
        ):
            try:
                snapshots[path] = None if path is None else read_snapshot(path)
            except NewerRecordError:
                raise
            except SnapshotError as error:
                if path is not None and not path.is_dir():
                    raise SnapshotError(
                        f"{path}: expected the snapshot that was there at the start, got none; it "
                        "was deleted meanwhile, so start again"
                    ) from error
                detail = str(error).removesuffix("; resume from another one")
                found = Difference(what="snapshot", step=step, detail=detail)
                return Replayed(interval=interval, differences=(found,))
        done = self._compare(interval, snapshots[interval.start], snapshots[interval.end])
        return replace(done, seconds=time.perf_counter() - started_at)

    def _compare(self, interval: Interval, start: Snapshot | None, end: Snapshot) -> Replayed:
        is_one_step = interval.start_step == interval.end_step
        if start is not None and is_one_step and start.record.engine.pending is None:
            return self._compared(interval, end, start.arrays)  # nothing lies between the two
        if start is None and interval.end_step == 0:
            state = self._run.program.init()
            arrays = {p: np.asarray(a) for p, a in self._run.program.export_state(state).items()}
            return self._compared(interval, end, arrays)
        return self._computed(interval, start, end)

    def _compared(
        self, interval: Interval, end: Snapshot, arrays: Mapping[str, np.ndarray]
    ) -> Replayed:
        """The result where no step is computed."""
        return Replayed(
            interval=interval,
            num_leaves=len(end.arrays),
            differences=tuple(self._leaves(end, arrays)),
        )

    def _computed(self, interval: Interval, start: Snapshot | None, end: Snapshot) -> Replayed:
        feed, read = watched(self._run.feed)
        kept, stop, bus = KeptSnapshot(), StopSignal(), EventBus({})
        folder = self._folder / f"{interval.start_step}_{interval.end.name}"
        folder.mkdir()
        self._attach(bus, stop, folder)
        program = self._run.program
        engine = Engine(
            program=program,
            feed=feed,
            schedule=ReplaySchedule.until(end.record, self._run.schedule),
            bus=bus,
            snapshots=kept,
            stop=stop,
            nonfinite=NonFinitePolicy(
                action=self._config.on_nonfinite,
                max_consecutive_skips=self._config.max_consecutive_skips,
                dumps=CountedDumps(),
            ),
            record=self._run.record,
            hyperparameters=hyperparameters_of(program.optimizer),
        )
        restored = None
        if start is not None:
            plan = RunPlan(run_dir=folder, snapshot=start)
            restored = fit_snapshot(plan, self._config, program).snapshot
        outcome = engine.run(restored)
        first = 0 if start is None else start.record.progress.examples_seen
        last = end.record.progress.examples_seen
        ids = read.between(first, last)
        lines = self._recorded_lines(start, end)
        computed = _lines(folder / METRICS) or []
        return Replayed(
            interval=interval,
            num_leaves=len(end.arrays),
            num_lines=len(lines),
            num_examples=len(ids),
            examples_sha256=hashlib.sha256(ids.tobytes()).hexdigest() if len(ids) else "",
            differences=(
                *self._line_differences(lines, computed),
                *self._examples(ids, first, end.record),
                *self._states(end, kept.newest, outcome),
                *pending_differences(end.record, computed, self._tolerance),
            ),
        )

    def _attach(self, bus: EventBus, stop: StopSignal, folder: Path) -> None:
        config, feed, run = self._config, self._run.feed, self._run
        context = RunContext(
            run_dir=folder,
            config=config.to_dict(),
            stop=stop,
            eval_metrics=tuple(run.eval_metrics),
            eval_splits=feed.eval_splits,
            schedules=schedules(run.program.optimizer),
            is_fork=True,
        )
        chosen = choose_listeners(config, self._project)
        bus.attach({name: make(context) for name, make in chosen.items()})

    def _line_differences(
        self, recorded: list[JsonObject], computed: list[JsonObject]
    ) -> Iterator[Difference]:
        if self._lines is not None:
            yield from line_differences(recorded, computed, self._tolerance)

    def _recorded_lines(self, start: Snapshot | None, end: Snapshot) -> list[JsonObject]:
        if self._lines is None:
            return []
        return lines_of_interval(self._lines, None if start is None else start.record, end.record)

    def _examples(self, ids: np.ndarray, first: int, end: SnapshotRecord) -> Iterator[Difference]:
        """Compares the examples that were read with those that the record's seed determines."""
        size = self._run.feed.num_train_examples
        expected = expected_examples(self._config.seed, size, first, first + len(ids))
        (others,) = np.nonzero(ids != expected)
        if len(others):
            at = int(others[0])
            position = f"{ids[at]} at position {first + at} instead of {expected[at]}"
            yield Difference(what="examples", step=end.progress.step, detail=position)

    def _states(
        self, end: Snapshot, kept: Snapshot | None, outcome: Outcome
    ) -> Iterator[Difference]:
        step = end.record.progress.step
        if kept is None or kept.record.progress.step != step:
            detail = f"the replay ends at step {outcome.progress.step}: {outcome.reason}"
            yield Difference(what="length", step=outcome.progress.step, detail=detail)
            return
        skips = kept.record.engine.num_skipped > 0 or self._config.on_nonfinite == "rollback"
        yield from self._leaves(end, kept.arrays, ignores=skips)
        yield from record_differences(end.record, kept.record, self._tolerance)

    def _leaves(
        self, end: Snapshot, arrays: Mapping[str, np.ndarray], *, ignores: bool = False
    ) -> Iterator[Difference]:
        return leaf_differences(
            end.arrays,
            arrays,
            step=end.record.progress.step,
            tolerance=self._tolerance,
            ignores=ignores,
        )


def _lines(file: Path) -> list[JsonObject] | None:
    """The lines of a file of metrics; None: there is no such file."""
    if not file.is_file():
        return None
    return read_lines(file.read_text(encoding="utf-8", errors="replace"))
