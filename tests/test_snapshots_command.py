"""`aetheria snapshots`: what it lists, and what its exit code says."""

import json
import random
import shutil

import pytest
from support.damage import flip, largest_file

from aetheria.cli.main import main


@pytest.fixture
def run(train):
    return train("run", epochs=3).run_dir


def rows(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if "snapshot_" in line]


def test_a_list_says_step_size_age_and_which_is_best(run, capsys):
    capsys.readouterr()
    assert main(["snapshots", str(run)]) == 0
    listed = rows(capsys)
    assert [row[:2] for row in listed] == [
        ["snapshot_ep1", "23"],
        ["snapshot_ep2", "46"],
        ["snapshot_ep3", "69"],
    ]
    assert all("yes" in row and "KB" in row and "s" in row for row in listed)
    assert [row[-1] == "best" for row in listed] == [False, False, True]


def test_a_damaged_one_is_listed_and_named_and_left_where_it_is(run, capsys):
    damaged = run / "checkpoints" / "snapshot_ep2"
    flip(random.Random(1), largest_file(damaged))
    capsys.readouterr()
    assert main(["snapshots", str(run)]) == 0
    assert ["NO" in row for row in rows(capsys)] == [False, True, False]
    assert main(["snapshots", str(run), "--quick"]) == 0
    assert all("asked" in row for row in rows(capsys))
    assert main(["snapshots", "verify", str(run)]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert str(damaged) in second and "expected an undamaged snapshot, got" in second
    assert first.endswith("KB") and "sound" in first and "sound" in third
    assert damaged.is_dir()


@pytest.mark.parametrize("sound", [True, False])
def test_one_snapshot_is_verified_by_its_path(run, capsys, sound):
    copy = run.parent / "copy"
    shutil.copytree(run / "checkpoints" / "snapshot_ep1", copy)
    if not sound:
        flip(random.Random(1), largest_file(copy))
    capsys.readouterr()
    assert main(["snapshots", "verify", str(copy)]) == (0 if sound else 1)
    (line,) = capsys.readouterr().out.splitlines()
    assert str(copy) in line


def test_json_is_a_line_for_each(run, capsys):
    capsys.readouterr()
    assert main(["snapshots", str(run), "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["step"] for item in listed] == [23, 46, 69]
    assert [item["problem"] for item in listed] == ["", "", ""]
    size = sum(f.stat().st_size for f in (run / "checkpoints/snapshot_ep1").rglob("*"))
    assert 0 < listed[0]["size_bytes"] <= size


def test_what_is_in_quarantine_is_said(run, train, capsys):
    flip(random.Random(1), largest_file(run / "checkpoints" / "snapshot_ep3"))
    train("run", epochs=4, resume="latest", accept_changes=True)
    capsys.readouterr()
    assert main(["snapshots", str(run)]) == 0
    assert "1 in quarantine: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "snapshots: expected a run folder with snapshots, or one of them, got nowh"),
        (["verify", "nowhere"], "expected a run folder with snapshots, or one of them, got nowh"),
        (["verify"], "aetheria snapshots verify: expected RUN|PATH, got none; see aetheria snap"),
        (["a", "b"], "aetheria snapshots: expected no further argument, got 'b'; see aetheria"),
        (["verify", "a", "--json"], "verify: expected an option of this command, got --json; see"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(capsys, arguments, message):
    assert main(["snapshots", *arguments]) == 2
    assert message in capsys.readouterr().err
