"""`aetheria runs`: what it lists of sound and damaged runs, what it notes, and what it deletes."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from aetheria.cli.main import main
from aetheria.snapshots.run_lock import RunLock

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def trained(train_once):
    """Two runs, of which the second learns faster."""
    return [
        train_once("slow", epochs=1, learning_rate=0.0001).run_dir,
        train_once("quick", epochs=2, learning_rate=0.01).run_dir,
    ]


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """A folder `runs` with copies of these runs; the folder above it is the current one."""
    monkeypatch.chdir(tmp_path)
    for number, run in enumerate(trained, start=1):
        shutil.copytree(run, tmp_path / "runs" / "digits" / str(number))
    return tmp_path / "runs"


def listed(capsys, *words):
    """The runs that a command lists, by the last part of their paths."""
    capsys.readouterr()
    assert main(["runs", *map(str, words), "--json"]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return {os.path.basename(line["path"]): line for line in lines}


def refusal(capsys, *words):
    capsys.readouterr()
    assert main(["runs", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_list_says_how_each_run_ended_and_how_well(folder, capsys):
    capsys.readouterr()
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    first, second = (line.split() for line in out.splitlines() if "runs/digits/" in line)
    assert first[:4] == ["runs/digits/1", "completed", "23", "eval/loss"]
    assert second[:4] == ["runs/digits/2", "completed", "46", "eval/loss"]
    assert float(second[4]) < float(first[4]) and "KB" in second and "2 runs in runs" in out
    runs = listed(capsys)
    size = sum(f.lstat().st_size for f in (folder / "digits/1").rglob("*") if f.is_file())
    assert runs["1"]["size_bytes"] == size and runs["1"]["problem"] == ""


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["1", "2"]),
        (["--sort=best"], ["2", "1"]),
        (["--sort=step"], ["2", "1"]),
        (["--sort=age"], ["2", "1"]),
        (["--status=completed"], ["1", "2"]),
        (["--status=killed", "--status=halted"], []),
        (["--where=learning_rate=0.01"], ["2"]),
        (["--where=learning_rate != 0.01"], ["1"]),
        (["--where=model_params.hidden_dim>=16", "--where=epochs<2"], ["1"]),
        (["--where=resolved.data_params.eval_fraction=0.2"], ["1", "2"]),
        (["--where=eval/accuracy>0.5"], ["2"]),
        (["--where=model_name=SimpleMLP", "--where=step=46"], ["2"]),
        (["--where=max_steps=null"], ["1", "2"]),
        (["--where=no_such_key=1"], []),
        (["--where=name>a"], []),
    ],
)
def test_runs_are_filtered_and_sorted(folder, capsys, words, names):
    assert list(listed(capsys, *words)) == names


def test_wrong_requests_are_one_line(folder, capsys):
    assert "expected a folder with runs, got nowhere" in refusal(capsys, "nowhere")
    assert "expected a condition such as" in refusal(capsys, "--where=epochs")
    assert "expected one of running, completed" in refusal(capsys, "--status=done")
    assert "expected one of name, age" in refusal(capsys, "--sort=luck")
    (folder / "empty").mkdir()
    assert main(["runs", "runs/empty"]) == 0
    assert "0 runs in runs/empty" in capsys.readouterr().out


def test_runs_of_the_first_release_are_listed(capsys):
    runs = listed(capsys, GOLDEN)
    old = runs["run_0_1_0"]
    assert (old["status"], old["step"], old["monitor"]) == ("preempted", 10, "eval/loss")
    assert old["best"] == pytest.approx(2.195, abs=1e-3) and old["problem"] == ""


# The file, what it holds then, and whether the list has to name it as a problem.
DAMAGES = {
    "no config": ("config.json", None, False),
    "an empty config": ("config.json", b"", True),
    "a config that is a list": ("config.json", b"[1]", True),
    "a deep config": ("config.json", b"[" * 100_000, True),
    "half a summary": ("summary.json", b'{"status": "comp', True),
    "no summary": ("summary.json", None, False),
    "a strange summary": ("summary.json", b'{"status": 3, "steps": "x", "best": [1]}', False),
    "noise for goodput": ("goodput.jsonl", b"\xff\x00\n[]\n", False),
    "impossible times": ("goodput.jsonl", b'{"started_at": NaN, "until": 1e300}\n', False),
    "a note that is a folder": ("note.txt", Path, False),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_one_line(folder, capsys, damage):
    name, content, is_problem = DAMAGES[damage]
    path = folder / "digits" / "1" / name
    path.unlink(missing_ok=True)
    if content is Path:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    run = listed(capsys)["1"]
    assert (run["status"], run["step"]) == ("completed", 23)
    assert run["problem"].startswith(name) if is_problem else run["problem"] == ""
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.count("runs/digits/1") == 1


def test_a_run_without_an_end_was_killed_and_a_held_one_is_running(folder, capsys):
    run = folder / "digits" / "2"
    lines = (run / "goodput.jsonl").read_text().splitlines()
    later = {**json.loads(lines[-1]), "status": "running", "step": 60}
    later["started_at"] += 100
    later["until"] += 100
    (run / "goodput.jsonl").write_text("\n".join([*lines, json.dumps(later)]) + "\n")
    found = listed(capsys)["2"]  # summary.json is of the process before
    assert (found["status"], found["step"]) == ("killed", 60)
    lock = RunLock(run)
    lock.acquire()
    try:
        assert listed(capsys, "--status=running").keys() == {"2"}
    finally:
        lock.release()
    assert listed(capsys)["2"]["status"] == "killed"


def test_a_run_that_never_trained_here_says_so(folder, capsys):
    for name, lineage in (("imported", {"file": "weights.npz"}), ("unknown", None)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"lineage": lineage}))
    runs = listed(capsys)
    assert [runs[name]["status"] for name in ("imported", "unknown")] == ["imported", "unknown"]
    assert runs["unknown"]["step"] is None and runs["unknown"]["best"] is None


def test_a_note_is_kept_in_the_run_shown_replaced_and_removed(folder, capsys):
    run = "runs/digits/1"
    assert main(["runs", "mark", run, "baseline [red]"]) == 0
    assert listed(capsys, "--where=note=baseline [red]").keys() == {"1"}
    assert main(["runs", "mark", run, "other"]) == 0
    assert "other (it was: baseline [red])" in capsys.readouterr().out
    assert main(["runs", "mark", run, ""]) == 0
    assert listed(capsys)["1"]["note"] == ""
    assert not (folder / "digits/1/note.txt").exists()
    assert "expected a run folder, got runs" in refusal(capsys, "mark", "runs", "text")
    assert "expected one line" in refusal(capsys, "mark", run, "two\nlines")


def test_what_a_terminal_would_obey_is_shown_as_text(folder, capsys):
    (folder / "digits" / "1").rename(folder / "digits" / "a\x1b[2J")
    (folder / "digits" / "2" / "note.txt").write_text("\x1b]0;title\x07")
    capsys.readouterr()
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"\x1b[2J" in out and "2 runs in runs" in out


def test_a_run_is_deleted_with_its_empty_folder_and_the_others_stay(folder, capsys):
    size = listed(capsys)["1"]["size_bytes"]
    assert main(["runs", "delete", "runs/digits/1", "runs/digits/1/", "--yes"]) == 0
    assert not (folder / "digits" / "1").exists() and (folder / "digits" / "2").is_dir()
    out = capsys.readouterr().out
    assert f"{size / 1000:.2f} KB" in out.splitlines()[-1]


def test_nothing_is_deleted_unasked(folder, capsys, monkeypatch):
    before = sorted(folder.rglob("*"))
    assert "add --yes" in refusal(capsys, "delete", "runs/digits/1")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in ("n", "", "x"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert main(["runs", "delete", "runs/digits/1"]) == 1
        assert "nothing was deleted" in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["runs", "delete", "runs/digits/1"]) == 0
    assert sorted(folder.rglob("*")) != before


def test_what_no_run_wrote_stays(folder, capsys):
    mine = folder / "digits" / "1" / "thesis.tex"
    mine.write_text("mine")
    assert main(["runs", "delete", "runs/digits/1", "--yes"]) == 0
    assert "no run wrote thesis.tex: this stays" in capsys.readouterr().out
    assert [path.name for path in mine.parent.iterdir()] == ["thesis.tex"]
    assert listed(capsys).keys() == {"2"}


@pytest.mark.parametrize("what", ["running", "no run", "another config.json", "a link", "gone"])
def test_a_folder_that_must_not_be_deleted_keeps_all_of_them(folder, capsys, what):
    wrong, lock = folder / "wrong", None
    if what == "running":
        shutil.move(folder / "digits" / "2", wrong)
        lock = RunLock(wrong)
        lock.acquire()
    elif what == "a link":
        wrong.symlink_to(folder / "digits" / "2")
    elif what != "gone":
        wrong.mkdir()
        name = "config.json" if what == "another config.json" else "data.csv"
        (wrong / name).write_text('{"architectures": ["Other"]}')
    before = sorted(folder.rglob("*"))
    try:
        line = refusal(capsys, "delete", "runs/digits/1", "runs/wrong", "--yes")
    finally:
        if lock is not None:
            assert (wrong / "holder.json").exists()
            lock.release()
    assert "expected a run folder" in line and "runs/wrong" in line
    if what == "running":
        assert f"process {os.getpid()} on {socket.gethostname()}" in line
    else:
        assert sorted(folder.rglob("*")) == before
    assert (folder / "digits" / "1" / "config.json").exists()
