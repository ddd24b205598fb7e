"""Any schedule of saves, kills, damage and resumes ends as a run that was left alone.

The engine, the feed, the logger and the store are the real ones; the program is a fake whose state
is a number that remembers every example and its order.
"""

import contextlib
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from support.damage import cut, delete, files_of, flip
from support.long import long_or
from support.records import make_run_record
from support.runs import Finished, without_rate
from support.scratch import scratch_root

from aetheria.data import DataSplits, Feed
from aetheria.data.sources import ArraySource
from aetheria.engine import Engine, NonFinitePolicy, Schedule
from aetheria.engine.interfaces import GuardCounters, HostReport
from aetheria.engine.stop import StopSignal
from aetheria.errors import SnapshotError
from aetheria.observe import EventBus
from aetheria.observe.callbacks.early_stopping import EarlyStopping
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.records import JsonlLogger
from aetheria.snapshots import SnapshotStore
from aetheria.snapshots.quiet_orbax import UNFINISHED
from aetheria.snapshots.retention import Retention
from aetheria.snapshots.runs import RunRequest
from aetheria.snapshots.store import list_snapshots

NUM_EXAMPLES, BATCH, EPOCHS = 18, 4, 5
TOTAL_STEPS = 5 * EPOCHS


_tally = Counter()


class Killed(BaseException):
    """A kill: nothing of the process runs after it."""


class MixingProgram:
    """Raises Killed at a moment of its own: before step `at` is taken, or in the evaluation or the
    export that comes next after it. At the moment `signal`, it asks for a stop in that evaluation.
    """

    steps_per_call = 3
    mfu = staticmethod(lambda steps_per_second: None)
    memory = staticmethod(lambda: None)
    loop_context = staticmethod(contextlib.nullcontext)

    def __init__(self, moment, at, stop):
        self._moment, self._at, self._stop, self._armed = moment, at, stop, False

    def init(self):
        return {"hash": 1, "step": 0}

    def train_steps(self, state, arrays, start, count, since):
        """The report's sum is of the interval, as the engine hands it on."""
        total, weight = (0, 0) if since is None else since["interval"]
        for index in range(start, start + count):
            if state["step"] >= self._at:
                self._strike("train")
                self._armed = True
            number = state["hash"]
            inputs, mask = arrays["inputs"][index].ravel(), arrays["mask"][index].ravel()
            for example in inputs[mask > 0].tolist():
                number = (number * 6364136223846793005 + example + 1) % 2**64
            state = {"hash": number, "step": state["step"] + 1}
            total, weight = total + number % 1_000_003, weight + 1
        return state, {**state, "interval": (total, weight)}

    def import_report(self, sums):
        return {"interval": tuple(map(int, sums["loss"]))}

    def eval_step(self, state, batch, totals):
        if self._armed:
            self._strike("eval")
            if self._moment == "signal":
                self._stop.request("a signal", preempt=True)
        return {"count": (totals or {"count": 0})["count"] + int(batch["mask"].sum()), **state}

    def fetch(self, report):
        if "count" in report:
            loss = {"loss": float(report["hash"] % 1_000_003)}
            return HostReport(loss, report["count"], None)
        total, weight = report["interval"]
        guard = GuardCounters(report["step"], 0, 0, 0)
        return HostReport({"loss": total / weight}, None, guard, {"loss": [total, weight]})

    def export_state(self, state):
        if self._armed:
            self._strike("save")
        numbers = np.array([state["hash"], state["step"]], np.uint64)
        return {"params/numbers": numbers.view(np.uint32)}

    def import_state(self, arrays):
        number, step = np.asarray(arrays["params/numbers"]).view(np.uint64).tolist()
        return {"hash": number, "step": step}

    def _strike(self, moment):
        if self._moment == moment:
            _tally[moment] += 1
            raise Killed


class NoDumps:
    def has_budget(self):
        return False


class Life:
    """One process of a run in a folder."""

    def __init__(self, folder, moment="never", at=TOTAL_STEPS, stop_at_step=None):
        self.folder = folder
        request = RunRequest(config_name="c", workdir=folder, resume="auto")
        self.plan = request.resolve()
        self.plan.prepare({})
        stop = StopSignal()
        context = RunContext(run_dir=folder, config={}, stop=stop, eval_metrics=("eval/loss",))
        split = ArraySource({"inputs": np.arange(NUM_EXAMPLES, dtype=np.int32)})
        self.store = SnapshotStore(folder / "checkpoints", Retention(keep_last=3))
        self.engine = Engine(
            program=MixingProgram(moment, at, stop),
            feed=Feed(
                splits=DataSplits(train=split, eval=split),
                batch_size=BATCH,
                num_slices=2,
                seed=3,
            ),
            schedule=Schedule(
                num_train_examples=NUM_EXAMPLES,
                batch_size=BATCH,
                grad_accumulation_steps=2,
                epochs=EPOCHS,
                stop_at_step=stop_at_step,
                log_every_steps=2,
                save_every_steps=3,
            ),
            bus=EventBus(
                {
                    "jsonl": JsonlLogger(context),
                    "early": EarlyStopping(context, patience=1000, mode="max"),
                }
            ),
            snapshots=self.store,
            stop=stop,
            nonfinite=NonFinitePolicy(action="skip", max_consecutive_skips=3, dumps=NoDumps()),
            record=make_run_record(),
        )
        self.engine._fail = lambda error: None  # a killed process says nothing

    def run(self):
        try:
            return self.engine.run(self.plan.snapshot)
        except Killed:
            return None
        finally:
            self.store.finished(wait=True)  # what was being written is there, or is not


def outcome_of(folder):
    """Everything that must be the same: the end's state and record, and every metric line."""
    newest = list_snapshots(folder / "checkpoints")[-1]
    life = Life(folder)
    assert life.plan.snapshot is not None and life.plan.snapshot.path == newest.path
    record = life.plan.snapshot.record
    lines = without_rate(Finished(0, folder).metrics)
    arrays = {path: a.tobytes() for path, a in life.plan.snapshot.arrays.items()}
    return arrays, record, lines


_reference = []


def reference():
    """What an uninterrupted run leaves behind."""
    if not _reference:
        with tempfile.TemporaryDirectory() as name:
            done = Life(Path(name) / "run").run()
            assert done is not None and done.progress.step == TOTAL_STEPS
            _reference.append(outcome_of(Path(name) / "run"))
    return _reference[0]


STEPS, SEEDS = st.integers(0, TOTAL_STEPS - 1), st.integers(0, 2**32)
HAS_SAVED = precondition(lambda machine: (machine.run / "checkpoints").is_dir())


class Schedules(RuleBasedStateMachine):
    """What can happen to a run."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="schedules-", dir=scratch_root()))
        self.run = self.root / "run"
        self.touched = False

    # A rule for each kind: drawn within one rule, some kinds would hardly come up.
    @rule(at=STEPS)
    def kill_in_training(self, at):
        self.live(moment="train", at=at)

    @rule(at=STEPS)
    def kill_in_an_evaluation(self, at):
        self.live(moment="eval", at=at)

    @rule(at=STEPS)
    def kill_in_a_save(self, at):
        self.live(moment="save", at=at)

    @rule(at=st.integers(1, TOTAL_STEPS - 1))
    def stop(self, at):
        done = self.live(stop_at_step=at)
        assert done is None or done.status in ("preempted", "completed")

    @rule(at=STEPS)
    def stop_in_an_evaluation(self, at):
        done = self.live(moment="signal", at=at)
        assert done is not None
        newest = list_snapshots(self.run / "checkpoints")[-1]
        _tally["unevaluated"] += newest.path.name.endswith("_unevaluated")

    @HAS_SAVED
    @rule(seed=SEEDS)
    def flip_a_bit(self, seed):
        self.damage(seed, flip)

    @HAS_SAVED
    @rule(seed=SEEDS)
    def cut_a_file(self, seed):
        self.damage(seed, cut)

    @HAS_SAVED
    @rule(seed=SEEDS)
    def delete_a_file(self, seed):
        self.damage(seed, delete)

    def damage(self, seed, kind):
        chance = random.Random(seed)
        infos = list_snapshots(self.run / "checkpoints")
        if files := [file for info in infos[-1:] for file in files_of(info.path)]:
            kind(chance, chance.choice(files))
            self.touched = True
            _tally[kind.__name__] += 1

    @HAS_SAVED
    @rule()
    def leave_half_a_save(self):
        (self.run / "checkpoints" / f"snapshot_step999{UNFINISHED}" / "state").mkdir(
            parents=True, exist_ok=True
        )

    def live(self, **how):
        before = [info.step for info in list_snapshots(self.run / "checkpoints")]
        try:
            life = Life(self.run, **how)
        except SnapshotError:
            assert self.touched  # none is sound, which kills alone never bring about
            shutil.rmtree(self.run)
            _tally["none sound"] += 1
            life, before = Life(self.run, **how), []
        begins = 0 if life.plan.snapshot is None else life.plan.snapshot.record.progress.step
        _tally["damaged"] += len(life.plan.damaged)
        assert self.touched or begins == max(before, default=0)
        return life.run()

    def teardown(self):
        for _ in range(2):  # the second finds everything done
            done = self.live()
            assert done is not None and done.status == "completed"
        assert outcome_of(self.run) == reference()
        shutil.rmtree(self.root)


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=long_or(8, 300),
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


def test_the_schedules_held_all_that_can_happen():
    moments = ("train", "eval", "save", "flip", "cut", "delete", "damaged", "unevaluated")
    assert min(_tally[moment] for moment in moments) >= long_or(1, 5), _tally


def test_an_order_that_is_not_the_same_would_be_seen(tmp_path):
    """Control: a run that forgets where it was in the data."""
    Life(tmp_path / "run", stop_at_step=7).run()
    life = Life(tmp_path / "run")
    assert life.plan.snapshot is not None
    record = life.plan.snapshot.record
    record = replace(record, progress=replace(record.progress, examples_seen=0))
    life.engine.run(life.plan.snapshot._replace(record=record))
    life.store.finished(wait=True)
    assert outcome_of(tmp_path / "run") != reference()
