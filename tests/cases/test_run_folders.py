"""A run folder belongs to one process, and what a fork, a lost snapshot or a URL do to a run."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from filelock import FileLock

from aetheria.cli.parser import parse
from aetheria.engine.typed_json import to_json
from aetheria.errors import AetheriaError, SnapshotError
from aetheria.main import parse as parse_main
from aetheria.predict import load
from aetheria.snapshots import run_lock
from aetheria.snapshots.claim import claim
from aetheria.snapshots.run_lock import HOLDER, LOCK, Holder, RunLock
from aetheria.snapshots.runs import RunPlan, RunRequest, find_snapshot

HERE = socket.gethostname()


def taken_by_threads(plans):
    """The folders that as many threads as there are plans get, all holding theirs at once."""
    all_or_none, folders = threading.Barrier(len(plans)), []

    def take(plan):
        all_or_none.wait()
        with contextlib.suppress(SnapshotError), claim(plan) as mine:
            folders.append(mine.run_dir)
            with contextlib.suppress(threading.BrokenBarrierError):
                all_or_none.wait(timeout=1)

    threads = [threading.Thread(target=take, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return folders


def test_starts_of_one_moment_get_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plans = [RunRequest(config_name="c").resolve() for _ in range(6)]
    assert {plan.run_dir for plan in plans} == {Path("runs/c/1")}, "they all see the same"
    folders = taken_by_threads(plans)
    assert sorted(folders) == [Path(f"runs/c/{number}") for number in range(1, 7)]
    assert not list(Path("runs").glob("c/*")), "nothing was written, so nothing stays"


def test_a_folder_asked_for_by_name_goes_to_one_of_several(tmp_path):
    """The control: without numbers, one gets it."""
    assert len(taken_by_threads([RunPlan(run_dir=tmp_path / "run")] * 6)) == 1


def test_three_real_starts_make_three_runs(tmp_path):
    (tmp_path / "c.yaml").write_text("{model_name: SimpleMLP, max_steps: 2, loggers: [jsonl]}")
    command = [sys.executable, "-m", "aetheria", "train", "c.yaml", "--set", "strategy=cpu"]
    with contextlib.ExitStack() as stack:
        starts = [subprocess.Popen(command, cwd=tmp_path, stdout=-3) for _ in range(3)]
        processes = [stack.enter_context(start) for start in starts]
        assert [process.wait() for process in processes] == [0, 0, 0]
    for number in (1, 2, 3):
        folder = tmp_path / "runs" / "c" / str(number)
        assert json.loads((folder / "summary.json").read_text())["status"] == "completed"
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
        assert not (folder / HOLDER).exists() and not (folder / LOCK).exists()
    assert len(list((tmp_path / "runs" / "c").iterdir())) == 3


def test_a_run_under_way_is_refused_by_holder(train, tmp_path):
    run_dir = tmp_path / "w"
    assert train(f"--workdir={run_dir}").code == 0
    holder = RunLock(run_dir)
    holder.acquire()
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    for option in ("", "--resume=latest", "--resume=auto", "--resume=2", "--overwrite"):
        train(f"--workdir={run_dir}", *filter(None, [option])).assert_refused(
            f"held by process {os.getpid()} on {HERE}", str(run_dir)
        )
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    fork = RunRequest(config_name="c", workdir=tmp_path / "fork", resume=str(run_dir)).resolve()
    assert fork.parent == run_dir, "who only reads needs no lock"
    holder.release()
    for option in ("--resume=latest", "--overwrite"):  # the control
        assert train(f"--workdir={run_dir}", option).code == 0
    assert not (run_dir / HOLDER).exists() and not (run_dir / LOCK).exists()


@pytest.mark.parametrize("option", [(), ("--overwrite",)], ids=["", "--overwrite"])
def test_an_import_into_a_run_under_way_is_refused(run, tmp_path, option):
    lock = RunLock(tmp_path)
    lock.acquire()
    arguments = ("import", "model.pt", "--model=SimpleMLP", f"--workdir={tmp_path}", *option)
    run(*arguments).assert_refused(f"held by process {os.getpid()} on {HERE}")
    lock.release()
    assert "held by" not in run(*arguments).err  # the control: there is no such file


def test_a_refused_request_frees_the_folder(train, tmp_path):
    train("--workdir=w", data_name="nowhere").assert_refused("nowhere")
    train(data_name="nowhere").assert_refused("nowhere")
    assert not (tmp_path / "runs").exists()


def start_of(pid):
    return run_lock._process_start(pid)


def zombie():
    child = subprocess.Popen(["true"])
    while "Z" not in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2]:
        time.sleep(0.01)
    return child


HOLDERS = {
    "here, running": ({}, 1e6, False),
    "here, another process of the same id": ({"process_start": "long ago"}, 0, True),
    "here, dead": ({"pid": 2**22 - 1}, 0, True),
    "elsewhere, heard of": ({"host": "node7"}, 30, False),
    "elsewhere, silent": ({"host": "node7"}, 61, True),
    "elsewhere, its clock ahead": ({"host": "node7"}, -30, False),
    "a copy of a folder that is held": ({"inode": 1}, 0, True),
}


def forge(folder, age_seconds=0.0, **changes):
    """Writes who holds a folder, as that process would have."""
    (folder / LOCK).touch()
    holder = {
        "host": HERE,
        "pid": os.getppid(),
        "process_start": start_of(os.getppid()),
        "since": 0.0,
        "inode": (folder / LOCK).stat().st_ino,
    }
    (folder / HOLDER).write_text(json.dumps(asdict(Holder(**{**holder, **changes}))))
    then = time.time() - age_seconds
    os.utime(folder / HOLDER, (then, then))


@pytest.mark.parametrize(("changes", "age_seconds", "is_free"), HOLDERS.values(), ids=HOLDERS)
def test_a_dead_holder_is_recognised_and_a_living_one_too(tmp_path, changes, age_seconds, is_free):
    forge(tmp_path, age_seconds, **changes)
    before = (tmp_path / HOLDER).read_bytes()
    lock = RunLock(tmp_path)
    if is_free:
        (line,) = lock.acquire()
        assert "taken over" in line
        lock.release()
        assert not list(tmp_path.iterdir())
        return
    with pytest.raises(SnapshotError, match=f"held by process {os.getppid()} on "):
        lock.acquire()
    assert (tmp_path / HOLDER).read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for a zombie in /proc")
def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path):
    child = zombie()
    assert start_of(os.getpid()) and start_of(child.pid) is None
    child.wait()


def test_what_the_kernel_says_is_locked_is_held(tmp_path):
    """Such as by a process of another container, whose ids are not seen here."""
    with FileLock(tmp_path / LOCK), pytest.raises(SnapshotError, match="not visible here"):
        RunLock(tmp_path).acquire()
    lock = RunLock(tmp_path)
    assert lock.acquire() == []
    lock.release()


def test_garbage_instead_of_a_holder_stops_nobody(tmp_path):
    for text in ("", "[]", '{"host": 1}', "\udcff"):
        (tmp_path / HOLDER).write_bytes(text.encode(errors="surrogateescape"))
        lock = RunLock(tmp_path)
        lock.acquire()
        lock.release()


def test_a_heartbeat_is_heard(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    os.utime(tmp_path / HOLDER, (0, 0))
    lock.check()
    assert time.time() - (tmp_path / HOLDER).stat().st_mtime < 30
    lock.release()


def test_who_lost_the_folder_ends_without_writing(tmp_path, monkeypatch, capsys):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr("aetheria.snapshots.run_lock.os._exit", leave)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.check()  # the control: nothing happens while it is ours
    forge(tmp_path, host="node7", pid=5)
    with pytest.raises(SystemExit):
        lock.check()
    assert "got process 5 on node7" in capsys.readouterr().err
    lock.release()
    assert (tmp_path / HOLDER).exists(), "the other's"


@pytest.mark.parametrize("how", [shutil.rmtree, lambda run: run.rename(run.with_name("moved"))])
def test_a_folder_that_is_gone_is_said_once_and_made_anew(tmp_path, capsys, how):
    run = tmp_path / "run"
    run.mkdir()
    lock = RunLock(run)
    lock.acquire()
    how(run)
    for _ in range(2):
        lock.check()
    assert capsys.readouterr().err.count("removed or renamed under the run") == 1
    with pytest.raises(SnapshotError, match="held by"):
        RunLock(run).acquire()
    lock.release()


URLS = ("gs://bucket/run", "s3://b/r", "hdfs://n/r", "file:///tmp/r", "abfss://c@a/r", "gs:/b/r")


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_no_path(run, train, url):
    for arguments in ((f"--workdir={url}",), (f"--resume={url}",)):
        train(*arguments).assert_refused("expected a path of a mounted file system", "mount")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "gs://b/config.yaml"),
        ("import", "gs://b/model.pt", "--workdir=w"),
        ("import", "model.pt", "--workdir=gs://b/w"),
        ("export", "gs://b/run", "--to=model.pt"),
        ("export", "run", "--to=gs://b/model.pt"),
        ("report", "gs://b/run"),
        ("snapshots", "gs://b/run"),
        ("snapshots", "verify", "gs://b/run"),
        ("debug", "nan", "gs://b/run/dumps/x"),
    ],
    ids=" ".join,
)
def test_every_command_refuses_a_url(run, arguments):
    run(*arguments).assert_refused("expected a path of a mounted file system, got gs://b/")


def test_python_refuses_a_url_too(tmp_path):
    for url in URLS:
        with pytest.raises(AetheriaError, match="mounted file system"):
            load(url)
        with pytest.raises(AetheriaError, match="mounted file system"):
            RunRequest(config_name="c", workdir=Path(url)).resolve()
    with pytest.raises(SnapshotError, match="nothing there"):  # the control: colons are no URL
        find_snapshot("a:b/c", [])


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "c.yaml", "--over"),
        ("train", "c.yaml", "--work=w"),
        ("train", "c.yaml", "--res=auto"),
        ("plan", "c.yaml", "--dev=2"),
        ("prove", "resume", "c.yaml", "--kill=2"),
        ("parity", "c.yaml", "--st=2"),
        ("import", "model.pt", "--workdir=w", "--over"),
        ("snapshots", "run", "--qui"),
        ("debug", "nan", "dump", "--pro=p"),
    ],
    ids=" ".join,
)
def test_an_option_is_spelled_out(arguments):
    with pytest.raises(AetheriaError, match="expected an option of this command"):
        parse(arguments)


def test_the_module_takes_no_abbreviation_either():
    for wrong in ("--over", "--work=w"):
        with pytest.raises(AetheriaError, match="expected an option of this command"):
            parse_main(["--config=c.yaml", wrong])
    with pytest.raises(AetheriaError, match="got --conf;"):
        parse_main(["--conf=c.yaml"])
    assert parse_main(["--config=c.yaml", "--overwrite", "--workdir=w"]).overwrite  # the control


@pytest.mark.parametrize(("num_saved", "code"), [(0, 1), (1, 0)], ids=["none", "the first"])
def test_a_run_that_saved_nothing_does_not_end_with_0(
    train, tmp_path, monkeypatch, num_saved, code
):
    from aetheria.snapshots import store

    real, left = store.write_snapshot, [num_saved]

    def write(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(store, "write_snapshot", write)
    answer = train("--workdir=w", snapshot={"every_steps": 1})
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert answer.code == summary["exit_code"] == code
    assert summary["status"] == "completed" and summary["saved"] == (code == 0)
    assert summary["snapshot_failures"]
    assert ("leaves no snapshot (" in answer.err) == (code == 1)


def digest(folder):
    return json.loads((folder / "summary.json").read_text())["params_sha256"]


def test_a_fork_killed_before_its_first_snapshot_goes_on_from_what_it_forked(train, tmp_path):
    config = {"max_steps": 4, "snapshot": {"every_steps": 2}, "loggers": ["jsonl"]}
    whole, fork = tmp_path / "whole", tmp_path / "fork"
    assert train(f"--workdir={whole}", **config).code == 0
    request = RunRequest(
        config_name="c", workdir=fork, resume=f"{whole}/checkpoints/snapshot_step2"
    )
    request.resolve().prepare({})  # and is killed
    lineage = json.loads((fork / "config.json").read_text())["lineage"]
    assert (lineage["run"], lineage["snapshot"]) == (str(whole), "snapshot_step2")
    for resume in ("auto", "latest"):
        plan = replace(request, resume=resume).resolve()
        assert plan.snapshot.path.name == "snapshot_step2" and plan.parent == whole
        assert to_json(plan.lineage()) == lineage
        plan.prepare({})  # and is killed again
    answer = train("--workdir=fork", "--resume=auto", **config)
    assert answer.code == 0, answer.err
    assert f"resuming from {whole}/checkpoints/snapshot_step2" in answer.out
    assert digest(fork) == digest(whole)
    assert json.loads((fork / "config.json").read_text())["lineage"] == lineage
    lines = [(whole / "metrics.jsonl").read_text(), (fork / "metrics.jsonl").read_text()]
    steps = [[json.loads(line)["step"] for line in text.splitlines()] for text in lines]
    assert steps[0] == steps[1]
    # With a snapshot of its own, the fork goes on from that.
    own = replace(request, resume="auto").resolve()
    assert own.snapshot.path.parent.parent == fork and to_json(own.lineage()) == lineage
    shutil.rmtree(fork / "checkpoints")
    whole.rename(tmp_path / "away")
    train("--workdir=fork", "--resume=auto", **config).assert_refused(
        "snapshot_step2", str(whole), "got nothing there"
    )


def test_a_run_that_is_no_fork_starts_afresh_under_auto(tmp_path):
    """The control."""
    RunPlan(run_dir=tmp_path).prepare({})
    plan = RunRequest(config_name="c", workdir=tmp_path, resume="auto").resolve()
    assert plan.snapshot is None and plan.lineage() is None
