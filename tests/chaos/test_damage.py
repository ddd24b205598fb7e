"""Bits that flip and files that end early, in every file of a snapshot: found, or harmless."""

import random
import shutil

import numpy as np
import pytest
import yaml
from support.damage import cut, delete, files_of, flip, largest_file
from support.long import covering_rows, only_long
from support.runs import DIGITS

from aetheria.cli.train import TrainCommand
from aetheria.errors import SnapshotError
from aetheria.snapshots.runs import RunRequest
from aetheria.snapshots.snapshot_files import read_snapshot
from aetheria.snapshots.store import find_newest

NUM_FLIPS, NUM_CUTS, NUM_DELETIONS = 140, 60, 30


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with two snapshots, of steps 23 and 46, an average and dropout."""
    folder = tmp_path_factory.mktemp("damage")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**DIGITS, "ema_decay": 0.9}))
    assert TrainCommand(config_file=config, workdir=folder / "run").execute() == 0
    return folder / "run"


def cases():
    kinds = [(flip, NUM_FLIPS), (cut, NUM_CUTS), (delete, NUM_DELETIONS)]
    named = {
        f"{damage.__name__}-{number}": (damage, number)
        for damage, count in kinds
        for number in range(count)
    }
    # Each file of a snapshot in one way or another.
    turns = [(flip, range(10)), (cut, range(10, 20)), (delete, range(20, NUM_DELETIONS))]
    first = [f"{damage.__name__}-{number}" for damage, numbers in turns for number in numbers]
    return covering_rows(named, default=first)


@pytest.mark.parametrize(("damage", "number"), cases())
def test_damage_is_found_or_harmless_and_the_run_goes_on(finished, tmp_path, damage, number):
    chance = random.Random(f"{damage.__name__} {number}")
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = run / "checkpoints" / "snapshot_ep2"
    files = files_of(newest)
    damage(chance, files[number % len(files)])  # each of them in turn

    plan = RunRequest(config_name="config", workdir=run, resume="latest").resolve()
    assert plan.snapshot is not None
    if plan.damaged:
        ((path, reason),) = plan.damaged
        assert path == newest and str(newest) in reason and "\n" not in reason
    expected = "snapshot_ep1" if plan.damaged else "snapshot_ep2"
    right = read_snapshot(finished / "checkpoints" / expected)
    assert plan.snapshot.path.name == expected
    assert plan.snapshot.record == right.record
    assert [*plan.snapshot.arrays] == [*right.arrays]
    for leaf, array in right.arrays.items():
        found = plan.snapshot.arrays[leaf]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes(), leaf


def test_every_file_of_a_snapshot_is_among_those_damaged(finished):
    assert len(files_of(finished / "checkpoints" / "snapshot_ep2")) <= NUM_DELETIONS
    assert NUM_FLIPS + NUM_CUTS >= 200


def test_without_digests_a_flip_is_loaded_wrong(finished, tmp_path, monkeypatch):
    """Control: it is the digests that find it."""
    monkeypatch.setattr("aetheria.snapshots.snapshot_files.check_manifest", lambda *_: None)
    wrong = 0
    for number in range(20):
        chance, path = random.Random(number), tmp_path / str(number)
        shutil.copytree(finished / "checkpoints" / "snapshot_ep2", path)
        flip(chance, largest_file(path))
        right = read_snapshot(finished / "checkpoints" / "snapshot_ep2").arrays
        try:
            arrays = read_snapshot(path).arrays
        except SnapshotError:
            continue
        wrong += any(not np.array_equal(arrays[leaf], right[leaf]) for leaf in right)
    assert wrong > 0


@only_long  # test_snapshots resumes past a damaged one, too
def test_a_run_whose_newest_snapshot_is_damaged_ends_as_if_it_were_not(train):
    whole = train("whole", epochs=3)
    train("run", epochs=3, stop_at_step=60)
    path = whole.run_dir.parent / "run" / "checkpoints" / "snapshot_step60"
    for file in path.rglob("d/*"):
        flip(random.Random(1), file)
    resumed = train("run", epochs=3, resume="latest")
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    assert (path.parent / "quarantine" / "snapshot_step60").is_dir()
    newest, damaged = find_newest(path.parent)
    assert newest is not None and newest.path.name == "snapshot_ep3" and not damaged
