"""Nothing on the way in is unpickled or executed: what is planted there is refused by name."""

import json
import os
import pickle
import shutil
from importlib.util import find_spec

import pytest
import yaml

from aetheria.cli.main import main
from aetheria.errors import AetheriaError
from aetheria.inference import Predictor
from aetheria.snapshots.runs import RunRequest
from aetheria.snapshots.snapshot_files import read_snapshot

pytestmark = pytest.mark.usefixtures("alive")


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


@pytest.fixture
def alive(marker):
    """Nothing was executed when a test is over; its control is that the attack is a real one."""
    yield
    assert not marker.exists()
    pickle.loads(pickle.dumps(Attack(marker)))
    assert marker.exists()


@pytest.fixture
def run(train):
    return train("run").run_dir


def files(snapshot):
    return sorted(path.relative_to(snapshot) for path in snapshot.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["weights.pt", "snapshot_ep9", "weights"])
def test_a_pickle_for_a_snapshot_is_refused_by_name(run, tmp_path, marker, capsys, name):
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Attack(marker)))
    said = rf"got the file {file}, which is not read"
    if name == "weights.pt":  # PyTorch's reader of weights alone looks at it, if it is there
        said = "Weights only load failed" if find_spec("torch") else "expected the package torch"
    with pytest.raises(AetheriaError, match=said):
        Predictor(checkpoint_path=file)
    arguments = ["train", str(run.parent / "run.yaml"), f"--workdir={run}", f"--resume={file}"]
    assert main(arguments) == 2
    assert str(file) in capsys.readouterr().err
    assert main(["debug", "nan", str(file)]) == 2
    assert main(["snapshots", "verify", str(file)]) == 2


def test_a_pickle_in_the_place_of_any_file_of_a_snapshot_is_not_read(run, tmp_path, marker):
    newest = run / "checkpoints" / "snapshot_ep2"
    attacked = files(newest)
    assert len(attacked) > 5
    refused = 0
    for file in attacked:
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        (copy / "checkpoints" / "snapshot_ep2" / file).write_bytes(pickle.dumps(Attack(marker)))
        plan = RunRequest(config_name="run", workdir=copy, resume="latest").resolve()
        assert plan.snapshot is not None
        refused += len(plan.damaged)
        for path, reason in plan.damaged:
            assert path.name == "snapshot_ep2" and str(path) in reason
            assert plan.snapshot.path.name == "snapshot_ep1"
        if not plan.damaged:  # a file that decides nothing
            right = read_snapshot(newest)
            assert all((plan.snapshot.arrays[n] == a).all() for n, a in right.arrays.items())
        shutil.rmtree(copy)
    assert refused > 2


def test_a_tag_in_a_config_is_refused_by_name(tmp_path, marker, capsys):
    file = tmp_path / "config.yaml"
    tag = "!!python/object/apply:os.mkdir"
    file.write_text(f"model_name: SimpleMLP\nmodel_params: {tag} ['{marker}']\n")
    assert main(["train", str(file), f"--workdir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "python/object/apply:os.mkdir" in line and str(file) in line
    assert main(["train", str(file), "--set", f"epochs={tag} ['{marker}']"]) == 2
    assert not (tmp_path / "run").exists()
    yaml.unsafe_load(f"{tag} ['{marker}']")  # the attack is a real one
    assert marker.exists()
    marker.rmdir()


@pytest.mark.parametrize("target", ["file", "folder"])
def test_a_link_out_of_a_snapshot_is_refused_by_name(run, tmp_path, target):
    newest = run / "checkpoints" / "snapshot_ep2"
    item = newest / "record" / "metadata" if target == "file" else newest / "state"
    elsewhere = tmp_path / "elsewhere"
    shutil.move(item, elsewhere)
    item.symlink_to(elsewhere)
    with pytest.raises(
        AetheriaError, match=r"a link out of it to .*elsewhere; resume from another"
    ):
        read_snapshot(newest)
    plan = RunRequest(config_name="run", workdir=run, resume="latest").resolve()
    assert plan.snapshot is not None and plan.snapshot.path.name == "snapshot_ep1"


@pytest.mark.parametrize("leaf", ["../outside", "params/../../outside", "/outside", "a//b", "a\\b"])
def test_a_leaf_whose_name_leaves_the_snapshot_is_refused_by_name(run, leaf):
    newest = run / "checkpoints" / "snapshot_ep2"
    file = newest / "manifest" / "metadata"
    manifest = json.loads(file.read_text())
    manifest["leaves"][leaf] = next(iter(manifest["leaves"].values()))
    file.write_text(json.dumps(manifest))
    with pytest.raises(AetheriaError) as refused:
        read_snapshot(newest)
    assert f"a leaf {leaf!r}, whose name leaves the snapshot" in str(refused.value)
