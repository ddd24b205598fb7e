"""A disk that is full in the middle of a run: the run ends well, and says what it lacks."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support.runs import DIGITS, without_rate

from aetheria.cli.main import main
from aetheria.events import SnapshotFailed, TrainMetrics
from aetheria.observe.loggers.retrying_file import RetryingFile
from aetheria.snapshots.disk_space import check_disk_space
from aetheria.snapshots.retention import Retention
from aetheria.snapshots.snapshot_files import read_snapshot
from aetheria.snapshots.store import find_newest

SIZE = 4 << 20
CHANGES = {
    "epochs": 6,
    "loggers": ["jsonl", "csv", "tensorboard"],
    "log_every_steps": 1,
    "snapshot": {"keep_last": 2, "keep_best": 0},
}


@contextlib.contextmanager
def mounted(place, option):
    """A tmpfs on a folder, for a while."""
    mount = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: the folder in which `train` makes runs."""
    with mounted(tmp_path, f"size={SIZE}"):
        yield tmp_path


class Filler:
    """Callback: fills the disk at one step, to the last byte, when the save under way has ended,
    and frees it when so many saves have failed.
    """

    def __init__(self, context, full_from: int, failures: int | None = None):
        self._checkpoints = context.run_dir / "checkpoints"
        self._ballast = context.run_dir.parent / "ballast"
        self._from, self._failures = full_from, failures

    def notify(self, event):
        if isinstance(event, TrainMetrics) and event.progress.step == self._from:
            while not (self._checkpoints / "snapshot_ep2").exists():
                time.sleep(0.01)
            fill(self._ballast)
        if isinstance(event, SnapshotFailed) and self._failures is not None:
            self._failures -= 1
            if self._failures == 0:
                self._ballast.unlink()


def fill(path: Path):
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def read(name, run):
    return (run.run_dir / name).read_text()


def filler(**steps):
    return [{f"{__name__}:Filler": steps}]


def test_a_disk_that_is_full_for_a_while_costs_snapshots_and_nothing_else(disk, train, capfd):
    whole = train("whole", **CHANGES)
    run = train("run", **CHANGES, callbacks=filler(full_from=50, failures=3))
    assert run.exit_code == 0
    failures = run.summary["snapshot_failures"]
    assert [failure["step"] for failure in failures] == [69, 92, 115]
    assert all("\n" not in failure["reason"] for failure in failures)
    assert without_rate(run.metrics) == without_rate(whole.metrics)  # not a line is missing
    assert read("metrics.csv", run) == read("metrics.csv", whole)
    assert run.summary["params_sha256"] == whole.summary["params_sha256"]
    names = sorted(path.name for path in (run.run_dir / "checkpoints").iterdir())
    assert names == ["snapshot_ep2", "snapshot_ep6"]
    assert main(["snapshots", "verify", str(run.run_dir)]) == 0
    told = capfd.readouterr().err
    assert told.count("could not be written: No space left on device; trying again") == 3


def test_a_disk_that_stays_full_leaves_the_snapshot_before(disk, train, capfd):
    run = train("run", **CHANGES, callbacks=filler(full_from=50))
    assert run.exit_code == 0
    newest, damaged = find_newest(run.run_dir / "checkpoints")
    assert newest is not None and newest.path.name == "snapshot_ep2" and not damaged
    assert read_snapshot(newest.path).record.progress.step == 46
    captured = capfd.readouterr()
    assert "completed (end of schedule)" in captured.out
    assert "summary.json could not be written: " in captured.err
    assert "which could not be written" in captured.err
    (disk / "ballast").unlink()
    whole = train("whole", **CHANGES)
    resumed = train("run", **CHANGES, resume="latest")
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    assert without_rate(resumed.metrics) == without_rate(whole.metrics)


def test_curves_are_whole_after_an_outage(disk, train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("run", **CHANGES, callbacks=filler(full_from=50, failures=1))
    curves = EventAccumulator(str(run.run_dir / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [*range(1, 139)]


def config(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(DIGITS))
    return path


def test_a_full_disk_is_one_line_before_anything_starts(disk, capfd):
    fill(disk / "ballast")
    (disk / "ballast").write_bytes(b"\0" * ((disk / "ballast").stat().st_size - 16384))
    assert main(["train", str(config(disk)), f"--workdir={disk / 'run'}"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    expected = (
        r"--workdir: expected room for a snapshot of 1\d\.\d\d KB in .*, got \d\.\d\d KB; free"
    )
    assert re.match(expected, line)
    assert not (disk / "run").exists()


def test_room_is_compared_with_what_is_kept(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert check_disk_space(tmp_path / "run", 1000, Retention()) == []
    (line,) = check_disk_space(tmp_path / "run", free // 5, Retention(keep_last=5))
    assert line.startswith("disk: up to 7 more snapshots of ") and line.endswith(", and goes on")


def test_room_that_a_run_has_taken_already_is_no_room_it_wants(tmp_path):
    free, run, few = shutil.disk_usage(tmp_path).free, tmp_path / "run", Retention(keep_last=4)
    assert check_disk_space(run, free // 5, few)  # 4 + 1 + 1 do not fit
    for step in range(4):
        (run / "checkpoints" / f"snapshot_step{step}").mkdir(parents=True)
    assert check_disk_space(run, free // 5, few) == []  # 2 more do
    assert check_disk_space(run, free // 5, few, overwrite=True)


def test_a_run_may_be_overwritten_on_the_disk_that_it_fills(disk):
    command = ["train", str(config(disk)), f"--workdir={disk / 'run'}"]
    assert main(command) == 0
    fill(disk / "ballast")
    assert main([*command, "--overwrite"]) == 0
    read_snapshot(disk / "run" / "checkpoints" / "snapshot_ep1")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, kind, capsys):
    place = tmp_path / "place"
    place.write_text("") if kind == "file" else place.mkdir()
    with contextlib.nullcontext() if kind == "file" else mounted(place, "ro"):
        assert main(["train", str(config(tmp_path)), f"--workdir={place / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--workdir: expected a folder that can be written to, got ")


def test_what_the_disk_does_not_take_is_kept_and_written_once(tmp_path, monkeypatch, capsys):
    real, room = os.write, [3]

    def write(file, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = real(file, bytes(data[: room[0]]))
        room[0] -= taken
        return taken

    monkeypatch.setattr("aetheria.observe.loggers.retrying_file.os.write", write)
    file = RetryingFile(tmp_path / "lines")
    for line in (b"one\n", b"two\n"):
        file.write(line)
        file.flush()
    assert (tmp_path / "lines").read_bytes() == b"one"
    room[0] = 100
    file.flush()
    room[0] = 0
    file.write(b"three\n")
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"
    first, second, third = capsys.readouterr().err.splitlines()
    assert "No space left on device" in first and "No space left on device" in second
    assert third.endswith("lost its last 6 bytes, which could not be written")
