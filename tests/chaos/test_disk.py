"""A disk that is full in the middle of a run: the run ends well, and says what it lacks."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from aetheria.command.cli import main
from aetheria.events import StepsCompleted
from aetheria.observe.patient_file import PatientFile
from aetheria.resilience.retention import Retention
from aetheria.resilience.room import check_room
from aetheria.resilience.snapshot_files import read_snapshot
from aetheria.resilience.store import find_newest

SIZE = 4 << 20
CHANGES = {
    "epochs": 6,
    "loggers": ["jsonl", "csv", "tensorboard"],
    "log_every_steps": 1,
    "snapshot": {"keep_last": 2, "keep_best": 0},
}


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: the folder in which `train` makes runs."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


class Filler:
    """Callback: fills the disk at one step, to the last byte, when the save under way has ended,
    and frees it at another.
    """

    def __init__(self, context, full_from: int, full_until: int | None = None):
        self._checkpoints = context.run_dir / "checkpoints"
        self._ballast = context.run_dir.parent / "ballast"
        self._from, self._until = full_from, full_until

    def notify(self, event):
        if not isinstance(event, StepsCompleted):
            return
        if event.progress.step == self._from:
            while not (self._checkpoints / "snapshot_ep2").exists():
                time.sleep(0.01)
            fill(self._ballast)
        if event.progress.step == self._until:
            self._ballast.unlink()


def fill(path: Path):
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def without_rate(run):
    return [{**line, "steps_per_second": None} for line in run.metrics]


def filler(**steps):
    return [{f"{__name__}:Filler": steps}]


def test_a_disk_that_is_full_for_a_while_costs_snapshots_and_nothing_else(disk, train, capfd):
    whole = train("whole", **CHANGES)
    run = train("run", **CHANGES, callbacks=filler(full_from=50, full_until=120))
    assert run.exit_code == 0
    failures = run.summary["snapshot_failures"]
    assert [failure["step"] for failure in failures] == [69, 92, 115]
    assert all("\n" not in failure["reason"] for failure in failures)
    assert without_rate(run) == without_rate(whole)  # not a line is missing
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
    assert read_snapshot(newest.path).record["progress"]["step"] == 46
    captured = capfd.readouterr()
    assert "completed (end of schedule)" in captured.out
    assert "summary.json could not be written: " in captured.err
    assert "which found no place" in captured.err
    (disk / "ballast").unlink()
    whole = train("whole", **CHANGES)
    resumed = train("run", **CHANGES, resume="latest")
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    assert without_rate(resumed) == without_rate(whole)


def test_curves_are_whole_after_an_outage(disk, train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("run", **CHANGES, callbacks=filler(full_from=50, full_until=60))
    curves = EventAccumulator(str(run.run_dir / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [*range(1, 139)]


def read(name, run):
    return (run.run_dir / name).read_text()


def test_a_full_disk_is_one_line_before_anything_starts(disk, train, capfd, cli):
    fill(disk / "ballast")
    (disk / "ballast").write_bytes(b"\0" * ((disk / "ballast").stat().st_size - 8192))
    arguments = ["train", str(config(disk)), f"--workdir={disk / 'run'}"]
    assert main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("--workdir: expected room for a snapshot of 0.0")
    assert not (disk / "run").exists()


def config(folder):
    from conftest import DIGITS

    path = Path(folder) / "config.json"
    path.write_text(json.dumps(DIGITS))
    return path


def test_room_is_compared_with_what_is_kept(tmp_path):
    free = __import__("shutil").disk_usage(tmp_path).free
    assert check_room(tmp_path / "run", 1000, Retention()) == []
    (line,) = check_room(tmp_path / "run", free // 5, Retention(keep_last=5))
    assert line.startswith("disk: up to 7 snapshots of ") and "the run goes on" in line


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, kind, capsys):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    else:
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a tmpfs cannot be mounted here")
    try:
        assert main(["train", str(config(tmp_path)), f"--workdir={place / 'run'}"]) == 2
    finally:
        if kind == "folder":
            subprocess.run(["umount", str(place)], check=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--workdir: expected a folder that can be written to, got ")


def test_what_the_disk_does_not_take_is_kept_and_written_once(tmp_path, monkeypatch, capsys):
    import os

    real, room = os.write, [3]

    def write(file, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = real(file, bytes(data[: room[0]]))
        room[0] -= taken
        return taken

    monkeypatch.setattr("aetheria.observe.patient_file.os.write", write)
    file = PatientFile(tmp_path / "lines")
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
    assert third.endswith("is without its last 6 bytes, which found no place")
