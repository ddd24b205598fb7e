"""Trains a config twice, uninterrupted and killed and resumed, and compares the runs."""

import hashlib
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aetheria.config import Config
from aetheria.engine.record import SnapshotRecord
from aetheria.engine.typed_json import to_json
from aetheria.errors import AetheriaError, ExitCode
from aetheria.tools.prove.drop import drop_field
from aetheria.tools.prove.kill_at_step import read_examples
from aetheria.tools.prove.runs import ChildRun, Evidence, Place, short_digest

_KILL_AT_STEP = "aetheria.tools.prove.kill_at_step"
_LOGGERS = ("jsonl", "csv")


@dataclass(frozen=True)
class Check:
    """One line of the proof's table: what is compared, and the values of both runs as text."""

    name: str
    whole: str
    resumed: str
    difference: str | None


@dataclass(frozen=True, kw_only=True)
class ResumeProof:
    """Trains a config twice: once without interruption, once killed at some steps and resumed.

    Attributes:
        config_file: the config.
        config: its content, with the overrides.
        overrides: `key=value` texts on top of the file.
        steps: optimizer steps to compare.
        kill_at: the steps at which the second run is killed, in order.
        signal_number: SIGKILL, or a signal that a run may answer with a snapshot.
        drop: a field that is removed from the snapshot after the first kill.
        project: the project folder.
    """

    config_file: Path
    config: Config
    overrides: Sequence[str]
    steps: int
    kill_at: Sequence[int]
    signal_number: signal.Signals
    drop: str | None
    project: Path | None

    def run(self, log: Callable[[str], None]) -> list[Check]:
        """Runs both trainings as real processes in a temporary folder; `log` gets its progress.

        Raises:
            AetheriaError: a run failed, or did not end as expected.
        """
        with tempfile.TemporaryDirectory(prefix="aetheria-prove-") as folder:
            whole, resumed = Path(folder) / "whole", Path(folder) / "resumed"
            self._train(whole)
            expected = self._child(whole).evidence()
            self._check_length(expected)
            log(f"uninterrupted: {self.steps} steps")
            for number, step in enumerate(self.kill_at):
                self._train_until(resumed, step)
                log(f"stopped by {self.signal_number.name} at step {step}")
                if self.drop is not None and number == 0:
                    drop_field(resumed, self.drop)
                    log(f"the newest snapshot now lacks {self.drop}")
            try:
                self._train(resumed)
            except AetheriaError as error:
                if self.drop is None:
                    raise
                return [Check("run", "completed", "failed", str(error))]
            processes = read_examples(resumed)
            started_at = ", ".join(f"example {start}" for start, _ in processes)
            log(f"resumed: {self.steps} steps; processes started at {started_at}")
            found = self._child(resumed).evidence()
            num_examples = _record(expected).progress.examples_seen
            return [
                _check_metrics(expected, found),
                _check("metrics.csv", _csv(whole), _csv(resumed)),
                _check_examples(read_examples(whole), processes, num_examples),
                *_check_parts(expected, found),
                *_check_record(expected, found),
            ]

    def _check_length(self, whole: Evidence) -> None:
        reached = _record(whole).progress.step
        if reached < self.steps:
            raise AetheriaError(
                f"--steps: expected at most the {reached} steps of this run, got {self.steps}; "
                "ask for fewer, or add --set epochs=…"
            )

    def _train(self, workdir: Path) -> None:
        self._child(workdir).train(Place(), to_step=self.steps, resume="auto")

    def _train_until(self, workdir: Path, step: int) -> None:
        killed = self.signal_number is signal.SIGKILL
        code = -self.signal_number if killed else ExitCode.PREEMPTED
        goal = f"be stopped at step {step}"
        self._child(workdir, step).execute(Place(), resume="auto", wanted=(code,), goal=goal)

    def _child(self, workdir: Path, at_step: int | None = None) -> ChildRun:
        cadence = self._save_every()
        kill = {"at_step": at_step, "signal_number": self.signal_number, "save_every": cadence}
        project = None if self.project is None else str(self.project)
        data = {
            "name": self.config.data_name,
            "params": self.config.data_params,
            "project": project,
        }
        settings = {
            "data_name": f"{_KILL_AT_STEP}:dataset",
            "data_params": data,
            "callbacks": [*self.config.callbacks, {f"{_KILL_AT_STEP}:KillAtStep": kill}],
            "loggers": _LOGGERS,
            "log_every_steps": 1,
            "snapshot.every_steps": cadence,
        }
        texts = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return ChildRun(
            config_file=self.config_file,
            overrides=(*self.overrides, *texts),
            workdir=workdir,
            project=self.project,
        )

    def _save_every(self) -> int:
        """The cadence of snapshots: one or two between two kills."""
        gaps = [b - a for a, b in zip((0, *self.kill_at), self.kill_at, strict=False)]
        return max(1, min(gaps) // 2)


def _check_parts(first: Evidence, second: Evidence) -> Iterator[Check]:
    """Compares the parts of the state."""
    for part, digest in first.digests.items():
        other = second.digests.get(part, "")
        difference = None if digest == other else part
        yield Check(part, short_digest(digest), short_digest(other), difference)


def _check_record(first: Evidence, second: Evidence) -> Iterator[Check]:
    """Compares the record of the last snapshot, except config and versions."""
    mine, others = _record(first), _record(second)
    for part in ("progress", "engine", "listeners"):
        yield _check(part, to_json(getattr(mine, part)), to_json(getattr(others, part)))


def _record(evidence: Evidence) -> SnapshotRecord:
    assert evidence.record is not None, "a run that has ended has a snapshot"
    return evidence.record


def _check(name: str, first: object, second: object) -> Check:
    """Compares two JSON values; NaN equals itself."""
    mine, others = json.dumps(first, sort_keys=True), json.dumps(second, sort_keys=True)
    return Check(name, _digest(mine), _digest(others), None if mine == others else name)


def _check_metrics(first: Evidence, second: Evidence) -> Check:
    """Compares every line of `metrics.jsonl`, except the speed."""
    return Check(
        "metric lines",
        f"{len(first.metrics)}: {_digest(json.dumps(first.metrics))}",
        f"{len(second.metrics)}: {_digest(json.dumps(second.metrics))}",
        second.differs_from(first, parts=()),
    )


def _check_examples(
    whole: Sequence[tuple[int, list[int]]], resumed: Sequence[tuple[int, list[int]]], end: int
) -> Check:
    """Compares which examples were trained on, up to the position `end`: each process must read
    what the uninterrupted run reads there, and all processes together must read all of it.
    """
    ((_, expected),) = whole
    expected = expected[:end]
    taken: dict[int, int] = {}
    difference = None
    for start, indices in resumed:
        for position, index in enumerate(indices[: end - start], start):
            taken[position] = index
            if index != expected[position] and difference is None:
                difference = f"example {position}"
    if len(taken) != len(expected) and difference is None:
        difference = f"{len(taken)} examples instead of {len(expected)}"
    in_order = [taken[position] for position in sorted(taken)]
    return Check("examples", _listing(expected), _listing(in_order), difference)


def _listing(indices: Sequence[int]) -> str:
    return f"{len(indices)}: {_digest(json.dumps(indices))}"


def _csv(run_dir: Path) -> list[str]:
    return (run_dir / "metrics.csv").read_text(encoding="utf-8").splitlines()


def _digest(text: str) -> str:
    return short_digest(hashlib.sha256(text.encode()).hexdigest())
