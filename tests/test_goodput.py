"""Goodput: every second of a run, over its restarts, is assigned to one kind of work."""

import json
import shutil
import statistics
from types import SimpleNamespace

import pytest

from aetheria.cli.main import main
from aetheria.engine.stop import StopSignal
from aetheria.events import (
    PhaseChanged,
    Progress,
    RolledBack,
    RunEnded,
    RunStarted,
    StallTime,
    TrainMetrics,
)
from aetheria.observe.goodput import GOODPUT_FILE, KINDS, GoodputRecorder, account, read_goodput
from aetheria.observe.listener import RunContext
from aetheria.tools.report.speed import typical_speed


class Story:
    """Notifies a goodput recorder of events at given times."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.now = folder, 1000.0
        monkeypatch.setattr("aetheria.observe.goodput.time", SimpleNamespace(time=lambda: self.now))

    def start(self, at, ready, step):
        self.now = ready
        context = RunContext(run_dir=self.folder, config={}, stop=StopSignal(), started_at=at)
        self.recorder, self.stalls = GoodputRecorder(context), StallTime()
        progress = Progress(step=step)
        self.recorder.notify(
            RunStarted(progress=progress, total_steps=9, steps_per_epoch=3, resumed=step > 0)
        )

    def phase(self, at, source, target, step, **stalls):
        self.now, self.stalls = at, StallTime(**stalls) if stalls else self.stalls
        self.recorder.notify(
            PhaseChanged(
                progress=Progress(step=step), source=source, target=target, stalls=self.stalls
            )
        )

    def report(self, at, step, **stalls):
        self.now, self.stalls = at, StallTime(**stalls) if stalls else self.stalls
        self.recorder.notify(
            TrainMetrics(
                progress=Progress(step=step), metrics={}, steps_per_second=1.0, stalls=self.stalls
            )
        )

    def end(self, at, step):
        self.now = at
        self.recorder.notify(RunEnded(progress=Progress(step=step), status="completed", reason=""))

    def totals(self):
        return {kind: s for kind, s in account(read_goodput(self.folder)).items() if s}


@pytest.fixture
def story(tmp_path, monkeypatch):
    return Story(tmp_path, monkeypatch)


def test_each_second_is_assigned_to_one_kind(story):
    story.start(at=1000, ready=1003, step=0)
    story.phase(1004, "starting", "training", 0)
    story.report(1020, 2, data_seconds=1.0, compile_seconds=5.0)
    story.phase(1030, "training", "evaluating", 3, data_seconds=1.5, compile_seconds=5.0)
    story.phase(1036, "evaluating", "training", 3, data_seconds=1.5, compile_seconds=7.0)
    story.phase(1036, "training", "saving", 3)
    story.phase(1037, "saving", "training", 3)
    story.phase(1040, "training", "completed", 4)
    story.end(1042, 4)
    assert story.totals() == {
        "start": 4.0,
        "compile": 7.0,
        "data": 1.5,
        "step": 16 + 10 + 3 - 5 - 1.5,
        "evaluation": 6.0 - 2.0,
        "snapshot": 1.0 + 2.0,
    }
    assert sum(story.totals().values()) == 42


def test_steps_that_a_killed_process_had_taken_are_recomputed_and_the_gap_is_downtime(story):
    story.start(at=1000, ready=1000, step=0)
    story.phase(1000, "starting", "training", 0)
    story.report(1060, 6)  # it dies after this
    story.start(at=1100, ready=1100, step=3)
    story.phase(1100, "starting", "training", 3)
    story.report(1120, 5)
    story.report(1140, 7)
    story.phase(1150, "training", "completed", 8)
    story.end(1150, 8)
    assert story.totals() == {"step": 60 + 10 + 10, "recomputed": 20 + 10, "downtime": 40}
    first, second = read_goodput(story.folder)
    assert (first.status, first.step, second.status, second.step) == ("running", 6, "completed", 8)
    assert second.first_step == 3


def test_what_a_rollback_takes_back_is_recomputed(story):
    story.start(at=1000, ready=1000, step=0)
    story.phase(1000, "starting", "training", 0)
    story.report(1040, 4)
    story.now = 1040
    story.recorder.notify(RolledBack(progress=Progress(step=2), from_step=5, snapshot="snapshot_2"))
    story.report(1070, 5)
    story.phase(1080, "training", "completed", 6)
    story.end(1080, 6)
    assert story.totals() == {"step": 50.0, "recomputed": 30.0}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\x00\x00",
        b"[]",
        b"3",
        b'{"began": "now", "until": 2.0}',
        b'{"began": 1.0, "until": null}',
        b'{"began": 1.0, "until": 2.0, "seconds": 3}',
        b'{"began": 1.0, "until": 2.0, "seconds": {"lunch": 3}}',
        b'{"began": 1.0, "until": 2.0, "seconds": {"step": "long"}}',
        b'{"began": 1.0, "until": 2.0, "furthest": [1]}',
    ],
)
def test_what_a_crash_of_the_machine_left_is_left_out(story, garbage):
    (story.folder / GOODPUT_FILE).write_bytes(garbage + b"\n")
    story.start(at=1000, ready=1001, step=0)
    assert story.totals() == {"start": 1.0}


def test_a_line_that_a_kill_left_half_written_costs_only_itself(story):
    story.start(at=1000, ready=1000, step=0)
    story.phase(1000, "starting", "training", 0)
    story.report(1060, 6)
    with (story.folder / GOODPUT_FILE).open("a") as file:
        file.write('{"started_at": 1000.0, "unt')
    story.start(at=1070, ready=1071, step=6)
    assert story.totals() == {"step": 60.0, "start": 1.0, "downtime": 10.0}
    assert len((story.folder / GOODPUT_FILE).read_text().splitlines()) == 2


def test_a_clock_that_is_set_back_takes_no_time_away(story):
    story.start(at=1000, ready=1001, step=0)
    story.phase(1002, "starting", "training", 0)
    story.report(500, 2)
    story.end(1003, 2)
    assert story.totals() == {"start": 2.0, "step": 1.0}


def test_the_goodput_of_a_run_covers_all_its_time(train):
    train("run", stop_at_step=10)
    run = train("run", resume="latest")
    goodput, (first, second) = run.summary["goodput"], read_goodput(run.run_dir)
    assert tuple(goodput["seconds"]) == KINDS and goodput["processes"] == 2
    assert sum(goodput["seconds"].values()) == pytest.approx(
        second.until - first.started_at, abs=0.01
    )
    for session in (first, second):
        assert sum(session.seconds.values()) == pytest.approx(session.until - session.started_at)
        assert session.seconds["compile"] > 0
    assert first.seconds.get("evaluation", 0) == 0 < second.seconds["evaluation"]
    assert goodput["seconds"]["recomputed"] == 0
    assert [first.step, second.first_step, second.step] == [10, 10, 46]


def test_a_run_that_lost_snapshots_recomputes(train):
    run = train("run")
    shutil.rmtree(run.run_dir / "checkpoints" / "snapshot_ep2")
    again = train("run", resume="latest")
    second = read_goodput(again.run_dir)[1]
    # What is left for new steps lies between the end of the last one and the end of the run.
    assert second.seconds["recomputed"] > second.seconds["step"]


def test_overwrite_starts_a_new_record(train):
    train("run", epochs=1)
    again = train("run", epochs=1, overwrite=True)
    assert again.summary["goodput"]["processes"] == 1


def test_the_report_says_where_the_time_went(train, capsys):
    run = train("run", epochs=1).run_dir
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    text = capsys.readouterr().out
    assert all(kind in text for kind in (*KINDS, "completed", "0 to 23"))
    assert main(["report", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line).get("examples_per_second") for line in lines[:-1]]
    assert "examples_per_second" in text
    assert told["speed"]["examples_per_second"] == statistics.median(rates)
    assert typical_speed(run / "checkpoints") == {}
    (run / "metrics.jsonl").write_text('{"examples_per_second": 3.5}\n[]\n{"examples_per_sec')
    assert typical_speed(run) == {"examples_per_second": 3.5}
    assert told["total_seconds"] == pytest.approx(sum(told["seconds"].values()))
    assert told["processes"][0]["status"] == "completed"


def test_a_folder_without_goodput_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"report: expected a run folder with a goodput.jsonl, got {tmp_path}; name another\n"
    )
