"""Output that goes wrong ends no run: terminals, full disks, folders that vanish, silent logs."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from aetheria.cli.terminal import SafeStream, safe_output
from aetheria.engine.stop import StopSignal
from aetheria.events import Progress, RolledBack, RunEnded, RunStarted, TrainMetrics
from aetheria.observe.goodput import GoodputRecorder, read_goodput
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.console import _Lines
from aetheria.observe.loggers.records import CsvLogger, JsonlLogger
from aetheria.observe.loggers.retrying_file import RetryingFile


def full():
    return Path("/dev/full").open("w", encoding="utf-8")


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def narrow():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)


BROKEN = {
    "full": (full, "No space left on device"),
    "closed pipe": (closed_pipe, "Broken pipe"),
    "closed": (closed, "closed file"),
    "none": (lambda: None, "closed"),
    "ascii": (narrow, "its encoding (ascii) lacks '\\xe9'"),
}


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_stdout_is_said_once_on_stderr(monkeypatch, make, words):
    stream, errors = make(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", errors)
    with safe_output():
        for _ in range(3):
            print("é", flush=True)
            Console(highlight=False).print("table é")
        sys.stdout.isatty()
        with safe_output():  # a command within a command
            print("é")
    assert sys.stdout is stream and sys.stderr is errors
    assert len(errors.getvalue().splitlines()) == 1, errors.getvalue()
    assert words in errors.getvalue()
    if make is narrow:
        assert stream.buffer.getvalue().startswith(b"\\xe9\ntable \\xe9\n")
    elif stream is not None:
        stream.close()  # what it held back is gone, so this raises nothing


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_stderr_says_nothing_and_ends_nothing(monkeypatch, make, words):
    stream = make()
    monkeypatch.setattr(sys, "stdout", full())
    monkeypatch.setattr(sys, "stderr", stream)
    with safe_output():
        print("é", file=sys.stderr, flush=True)
        print("é", flush=True)
    sys.stdout.close()
    if stream is not None:
        stream.close()


@pytest.mark.parametrize("make", [full, closed_pipe, closed, narrow])
def test_without_it_a_print_raises(make):
    """The control."""
    stream = make()
    with pytest.raises((OSError, ValueError)):
        print("é", file=stream, flush=True)
    SafeStream(stream, "stdout", None).end()
    stream.close()


def test_a_sound_stream_is_left_alone(capsys):
    """The control: the same text, nothing on stderr, and the stream's own attributes."""
    with safe_output():
        print("é", flush=True)
        assert sys.stdout.encoding and not sys.stdout.line_buffering
    assert capsys.readouterr() == ("é\n", "")


def test_a_log_on_a_disk_that_is_full_for_a_while_goes_on(monkeypatch):
    class Log(io.StringIO):
        full = True

        def flush(self):
            if self.full:
                raise OSError(28, "No space left on device")

    log = Log()
    monkeypatch.setattr(sys, "stdout", log)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with safe_output():
        print("before", flush=True)
        log.full = False
        print("after", flush=True)
    assert log.getvalue() == "before\nafter\n"


SCRIPT = """
import sys
from aetheria.cli.terminal import safe_output
with {context}:
    for _ in range(9999):
        print("é", flush=True)
    sys.exit(3)
"""
REDIRECTIONS = (">/dev/full", ">&-", ">&- 2>&-", ">/dev/full 2>&1", "| head -1")


def exit_code(redirection, context, **environment):
    script = SCRIPT.format(context=context)
    command = f"\"{sys.executable}\" -c '{script}' {redirection}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", command], env={**os.environ, **environment}, capture_output=True, check=False
    ).returncode


def test_the_exit_code_is_the_one_without():
    for redirection in REDIRECTIONS:
        assert exit_code(redirection, "safe_output()") == 3, redirection
    assert exit_code("", "safe_output()", PYTHONIOENCODING="ascii") == 3
    # The control.
    plain = "__import__('contextlib').nullcontext()".replace("'", '"')
    assert exit_code(">/dev/full", plain) != 3
    assert exit_code("", plain, PYTHONIOENCODING="ascii") != 3


@pytest.mark.parametrize("make", [full, narrow])
def test_a_run_with_a_broken_stdout_leaves_the_same_files(train, tmp_path, monkeypatch, make):
    config = {"loggers": ["console", "jsonl"]}
    stream = make()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        answer = train("--workdir=é", **config)
    assert answer.code == 0
    assert len(answer.lines) == 1 and "stdout: " in answer.err
    names = {Path(path).name for path in answer.written}
    assert {"metrics.jsonl", "summary.json", "config.json"} <= names
    assert json.loads((tmp_path / "é" / "summary.json").read_text())["exit_code"] == 0
    stream.close()


class Disk:
    """A disk that takes what it is told to, in place of the real one."""

    def __init__(self, monkeypatch):
        self.is_full = False
        self._write = os.write
        monkeypatch.setattr("aetheria.observe.loggers.retrying_file.os.write", self.write)

    def write(self, file, data):
        if self.is_full:
            raise OSError(28, "No space left on device")
        return self._write(file, data)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def make(logger, folder):
    return logger(RunContext(run_dir=folder, config={}, stop=StopSignal()))


def started(step):
    return RunStarted(
        progress=Progress(step=step), total_steps=9, steps_per_epoch=9, resumed=step > 0
    )


def back(to, step):
    return RolledBack(progress=Progress(step=to), from_step=step, snapshot="snapshot")


def report(step):
    progress = Progress(step=step, micro_step=step, examples_seen=step, epoch=1)
    return TrainMetrics(progress=progress, metrics={"loss": 1.0}, steps_per_second=2.0)


ENDED = RunEnded(progress=Progress(step=9), status="completed", reason="end of schedule")


def tell(logger, *steps):
    for step in steps:
        logger.notify(report(step))


FILES = [(JsonlLogger, "metrics.jsonl"), (CsvLogger, "metrics.csv")]


@pytest.fixture
def whole(tmp_path):
    """What each file holds of a run to which nothing happened."""

    def of(logger, name):
        folder = tmp_path / "whole"
        folder.mkdir()
        one = make(logger, folder)
        one.notify(started(0))
        tell(one, 1, 2, 3, 4, 5, 6)
        one.notify(ENDED)
        return (folder / name).read_bytes()

    return of


@pytest.mark.parametrize(("logger", "name"), FILES)
@pytest.mark.parametrize("full_from", [2, 3, 4, 5], ids="full from step {}".format)
def test_a_rollback_while_the_disk_is_full_loses_nothing(
    tmp_path, disk, whole, logger, name, full_from
):
    expected = whole(logger, name)
    one = make(logger, tmp_path)
    one.notify(started(0))
    for step in range(1, 5):
        disk.is_full = step >= full_from
        tell(one, step)
    disk.is_full = True
    one.notify(back(to=2, step=4))
    tell(one, 3, 4, 5)
    disk.is_full = False
    tell(one, 6)
    one.notify(ENDED)
    assert (tmp_path / name).read_bytes() == expected


@pytest.mark.parametrize(("logger", "name"), FILES)
def test_a_resume_while_the_disk_is_full_cuts_in_place(tmp_path, disk, whole, logger, name):
    expected = whole(logger, name)
    (tmp_path / name).write_bytes(expected)
    inode = (tmp_path / name).stat().st_ino
    disk.is_full = True
    one = make(logger, tmp_path)
    one.notify(started(2))
    assert (tmp_path / name).read_bytes() == expected[: len((tmp_path / name).read_bytes())]
    tell(one, 3, 4)
    disk.is_full = False
    tell(one, 5, 6)
    one.notify(ENDED)
    assert (tmp_path / name).read_bytes() == expected
    assert (tmp_path / name).stat().st_ino == inode


@pytest.mark.parametrize(("logger", "name"), FILES)
@pytest.mark.parametrize("is_full", [False, True])
def test_a_strange_line_in_the_middle_costs_no_other(tmp_path, disk, whole, logger, name, is_full):
    expected = whole(logger, name)
    lines = expected.splitlines(keepends=True)
    (tmp_path / name).write_bytes(b"".join([*lines[:2], b"\0\0strange\n", *lines[2:]]))
    disk.is_full = is_full
    one = make(logger, tmp_path)
    one.notify(started(4))
    disk.is_full = False
    tell(one, 5, 6)
    one.notify(ENDED)
    found = (tmp_path / name).read_bytes()
    assert found.replace(b"\0\0strange\n", b"") == expected
    assert (b"strange" in found) == is_full, "with room, it goes"


def test_the_goodput_of_a_resume_while_the_disk_is_full_goes_on(tmp_path, disk):
    for is_full in (False, False, True):
        disk.is_full = is_full
        recorder = make(GoodputRecorder, tmp_path)
        recorder.notify(started(0))
        tell(recorder, 1, 2)
        disk.is_full = False
        recorder.notify(ENDED)
        with (tmp_path / "goodput.jsonl").open("a") as file:
            file.write('{"half')
    assert [session.status for session in read_goodput(tmp_path)] == ["completed"] * 3


def test_writing_a_file_anew_would_fail_then(tmp_path, disk):
    """The control: the disk of these tests refuses what the old way needs."""
    file = RetryingFile(tmp_path / "lines")
    file.write(b"one\ntwo\n")
    file.flush()
    disk.is_full = True
    assert not file.set_content(b"two\n")
    assert file.content() == b"one\ntwo\n"
    assert file.set_content(b"one\n") and file.content() == b"one\n"
    disk.is_full = False
    assert file.set_content(b"two\n") and (tmp_path / "lines").read_bytes() == b"two\n"
    file.close()


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_file_that_is_removed_is_written_anew_with_all_that_was_in_it(tmp_path, is_renamed):
    folder = tmp_path / "run"
    file = RetryingFile(folder / "lines")
    file.write(b"one\n")
    file.flush()
    if is_renamed:
        folder.rename(tmp_path / "moved")
    else:
        (folder / "lines").unlink()
        folder.rmdir()
    file.write(b"two\n")
    file.close()
    assert (folder / "lines").read_bytes() == b"one\ntwo\n"


@pytest.mark.own_programs  # without a trace, its start would still be written at step 2
@pytest.mark.parametrize(("how", "code"), [("remove", 0), ("rename", 0), ("replace by a file", 1)])
def test_a_run_folder_that_vanishes_is_said_and_written_anew(train, tmp_path, how, code):
    answer = train(
        "--workdir=run",
        max_steps=4,
        log_every_steps=1,
        loggers=["jsonl"],
        callbacks=[{"vanish": {"step": 2, "how": how}}],
    )
    assert answer.code == code, answer.err
    run = tmp_path / "run"
    if code == 0:
        (line,) = answer.lines
        assert "removed or renamed under the run" in line
        records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
        assert [r["step"] for r in records if r["split"] == "train"] == [1, 2, 3, 4]
        assert json.loads((run / "summary.json").read_text())["exit_code"] == 0
        assert json.loads((run / "config.json").read_text())["max_steps"] == 4
        assert list((run / "checkpoints").glob("snapshot_*"))
    else:
        assert "leaves no snapshot" in answer.err and "Traceback" not in answer.err
        assert '"status": "completed"' in answer.err, "the summary has to go somewhere"


def test_a_log_is_never_silent_for_long(capsys):
    now = [0.0]
    lines = _Lines(clock=lambda: now[0])
    lines.start(started(0))
    capsys.readouterr()
    shown = []
    for step in range(1, 10):
        now[0] += 4.0
        lines.step(replace(report(step), hyperparameters={"learning_rate": step / 1000}))
        if step == 5:
            lines.line("an evaluation")
        if text := capsys.readouterr().out.replace("an evaluation\n", ""):
            shown.append(step)
            left = timedelta(seconds=round((9 - step) / 2))
            assert text == (
                f"epoch 1  step {step}/9  loss 1.0000  lr 0.00{step}  2 steps/s  0 examples/s  "
                f"ETA {left}\n"
            )
    assert shown == [3, 6, 9], "every ten seconds, whatever else was printed"


def test_a_line_of_progress_says_all_that_is_known(capsys):
    lines = _Lines(clock=iter([0.0, 11.0, 11.0]).__next__)
    lines.start(started(0))
    event = replace(
        report(3),
        examples_per_second=1234.4,
        tokens_per_second=158003.0,
        mfu=0.4126,
        memory_bytes=3 << 30,
        peak_memory_bytes=4 << 30,
        data_wait_fraction=0.034,
    )
    lines.step(event)
    assert capsys.readouterr().out.endswith(
        "1234 examples/s  158003 tokens/s  mfu 41.3%  memory 3.0 GiB  data wait 3%  ETA 0:00:03\n"
    )
