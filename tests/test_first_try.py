"""What somebody tries first on the command line, and what it does."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.runs import DIGITS

from aetheria.cli.main import main
from aetheria.config.files import load_config
from aetheria.errors import ConfigError, SnapshotError
from aetheria.snapshots.finding import find_snapshot

VARIANTS = """\
def get_config(variant{default}):
    return {{"model_name": "SimpleMLP", "epochs": {{"small": 2, "large": 9}}[variant]}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own, with a config; the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**DIGITS, "loggers": ["jsonl"]}))
    return tmp_path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refusal(capsys, *words):
    """The one line of a refused command; nothing is written."""
    before = files(Path.cwd())
    assert main([*words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert files(Path.cwd()) == before
    return line


def test_the_whole_config_is_printed_and_read_back(here, capsys):
    assert main(["train", "config.yaml", "--set", "seed=7", "--print-config"]) == 0
    (here / "again.yaml").write_text(capsys.readouterr().out)
    whole = load_config(here / "again.yaml")
    assert whole == load_config(here / "config.yaml", ["seed=7"]) and whole.seed == 7
    assert "watchdog_seconds" in (here / "again.yaml").read_text(), "defaults are printed too"
    assert not (here / "runs").exists()


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(here, capsys):
    before = files(here)
    assert main(["train", "config.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "run folder: runs/config/1 (starting afresh)" in out
    assert "digits, train 1,438, eval 359; inputs float32 [64], labels int32 []" in out
    assert re.search("^length +46 steps, 23 an epoch$", out, re.MULTILINE)
    assert out.rstrip().endswith("nothing was compiled or written")
    assert files(here) == before
    line = refusal(capsys, "train", "config.yaml", "--dry-run", "--set=model_params.input_dim=9")
    assert "model_params.input_dim: expected 64" in line  # the model was traced


def test_a_fast_dev_run_does_everything_and_keeps_nothing(here, capsys):
    before = files(here)
    assert main(["train", "config.yaml", "--fast-dev-run"]) == 0
    out = capsys.readouterr().out
    assert "steps             2" in out and "eval/loss" in out and "best" in out
    assert out.rstrip().endswith("nothing was kept")
    assert files(here) == before
    for option in ("--workdir=x", "--resume=latest"):
        assert "--fast-dev-run: expected it without" in refusal(
            capsys, "train", "config.yaml", "--fast-dev-run", option
        )


def test_a_few_batches_are_learned_by_heart(train):
    run = train("few", overfit_batches=1, epochs=60, learning_rate=0.03, loggers=["jsonl"])
    assert run.summary["num_eval_examples"] == run.summary["steps"] + 4 == 64
    assert run.summary["final"]["eval/accuracy"] == 1.0


@pytest.fixture
def two_runs(here):
    """runs/mine/1, better at its first snapshot; and the second."""
    for epochs in (2, 3):
        settings = ["--set=snapshot={monitor: eval/loss, mode: max}", f"--set=epochs={epochs}"]
        assert main(["train", "config.yaml", "--name=mine", *settings]) == 0
    return here / "runs" / "mine"


def test_a_snapshot_is_named_by_its_run_and_a_word(two_runs, capsys):
    name = lambda text: str(find_snapshot(text, []).relative_to(os.curdir))
    assert name("runs/mine/1@latest") == "runs/mine/1/checkpoints/snapshot_ep2"
    assert name("runs/mine/1@best") == "runs/mine/1/checkpoints/snapshot_ep1"  # mode: max
    assert name("runs/mine/1@23") == "runs/mine/1/checkpoints/snapshot_ep1"
    assert name("mine/1@23") == "runs/mine/1/checkpoints/snapshot_ep1"
    assert name("mine@latest") == "runs/mine/2/checkpoints/snapshot_ep3"
    with pytest.raises(SnapshotError, match=r"step 24 in runs/mine/1, got snapshot_ep1, snapsh"):
        find_snapshot("runs/mine/1@24", [])
    with pytest.raises(SnapshotError, match="expected a run with snapshots at none"):
        find_snapshot("none@best", [])
    capsys.readouterr()
    options = ["--resume=mine/1@best", "--workdir=forked", "--accept-changes"]
    assert main(["train", "config.yaml", *options]) == 0
    assert "resuming from runs/mine/1/checkpoints/snapshot_ep1" in capsys.readouterr().out
    assert "a name without slashes" in refusal(capsys, "train", "config.yaml", "--name=a/b")


def test_a_run_folder_stands_for_its_config_and_goes_on(here, capsys):
    """No key that the run was started with need be said again."""
    changed = ("--set", "learning_rate=0.02")
    assert main(["train", "config.yaml", *changed, "--workdir=whole"]) == 0
    assert main(["train", "config.yaml", *changed, "--stop-at-step=30"]) == 75
    run = here / "runs" / "config" / "1"
    assert "name the run folder" in refusal(capsys, "train", "config.yaml", "--resume=latest")
    assert main(["train", str(run)]) == 0
    digests = [
        json.loads((folder / "summary.json").read_text())["params_sha256"]
        for folder in (here / "whole", run)
    ]
    assert digests[0] == digests[1]
    more = ("--set", "epochs=3", "--accept-changes")
    assert main(["train", str(run), *more, "--resume=23"]) == 0
    assert f"(forked from {run})" in capsys.readouterr().out
    assert main(["train", str(run), *more, "--workdir=fork"]) == 0
    assert json.loads((here / "fork" / "config.json").read_text())["learning_rate"] == 0.02
    assert main(["train", str(run), "--overwrite", "--dry-run"]) == 0
    assert f"run folder: {run} (starting afresh)" in capsys.readouterr().out
    assert "a folder without config.json" in refusal(capsys, "train", "runs")


def test_a_config_has_variants(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(VARIANTS.format(default=""))
    assert load_config(tmp_path / "config.py:large").epochs == 9
    with pytest.raises(ConfigError, match="expected a variant, which its get_config takes, got no"):
        load_config(file)
    with pytest.raises(ConfigError, match="KeyError: 'huge'"):
        load_config(tmp_path / "config.py:huge")
    file.write_text(VARIANTS.format(default="='small'"))
    assert load_config(file).epochs == 2
    file.write_text("def get_config():\n    return {'model_name': 'SimpleMLP'}\n")
    with pytest.raises(ConfigError, match=r"got one without parameters; name .*config\.py alone"):
        load_config(tmp_path / "config.py:small")


@pytest.mark.parametrize(
    ("rule", "schedule", "warmup_steps", "rates"),
    [
        ("sgd", "constant", 2, [0.0, 0.05, 0.1, 0.1, 0.1]),
        ("lion", "linear", 2, [0.0, 0.05, 0.1, 0.05, 0.0]),
        ("adam", "cosine", 0, [0.1, 0.0853553, 0.05, 0.0146447, 0.0]),
    ],
)
def test_the_optimizer_of_a_shipped_model_is_chosen_by_config(rule, schedule, warmup_steps, rates):
    from aetheria.model.by_name import make_model

    chosen = {"rule": rule, "schedule": schedule, "warmup_steps": warmup_steps, "momentum": 0.5}
    for name in ("SimpleMLP", "SimpleCNN", "Transformer"):
        optimizer = make_model(name, {**chosen, "learning_rate": 0.1}, None).optimizer(4)
        assert type(optimizer.rule).__name__.lower() == rule
        assert [optimizer.learning_rate(step) for step in range(5)] == pytest.approx(
            rates, abs=1e-6
        )


@pytest.mark.parametrize("field", ["rule", "schedule"])
def test_another_optimizer_is_one_line(here, capsys, field):
    line = refusal(capsys, "train", "config.yaml", f"--set=model_params.{field}=nadam")
    assert line.startswith(f"model_params.{field}: expected one of ") and "'nadam'" in line


def test_what_a_config_can_name_is_listed(here, capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name in ("SimpleMLP", "digits", "tensorboard", "early_stopping", "configs/mlp.py"):
        assert name in out
    assert main(["models", "SimpleMLP"]) == 0
    assert "hidden_dim" in capsys.readouterr().out
    assert "did you mean 'SimpleMLP'?" in refusal(capsys, "models", "Simplemlp")


def test_a_package_that_cannot_be_imported_hides_no_other(here, capsys, monkeypatch):
    package = here / "installed" / "broken-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[aetheria.models]\nBroken = gone.away:Broken\n")
    monkeypatch.syspath_prepend(package.parent)
    assert main(["models"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "Broken cannot be used: model 'Broken'" in listed and "SimpleMLP A multi" in listed
    assert main(["models", "Broken"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_doctor_finds_this_machine_well_and_says_what_is_not(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AETHERIA_TOKEN", "secret")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "MEND" not in out and "CPU device" in out and "secret" not in out
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(["doctor"]) == 1
    assert "MEND  cache     compiled programs cannot be kept; make" in capsys.readouterr().out


def test_a_new_project_trains_and_its_test_passes(here, capsys):
    assert main(["init", "new"]) == 0
    assert "wrote new/models/spirals.py" in capsys.readouterr().out
    assert refusal(capsys, "init", "new") == (
        "init: expected a folder without new/config.yaml, got one with it; name another folder"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=here / "new", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    (here / "mine").mkdir()
    (here / "mine" / ".gitignore").write_text("mine")
    assert main(["init", "mine"]) == 0
    assert (here / "mine" / ".gitignore").read_text() == "mine"
    capsys.readouterr()
    (here / "file").write_text("")
    assert "that can be written to" in refusal(capsys, "init", "file/below")


COMPLETE = """
source <(cat "$SCRIPT")
complete_line() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _aetheria; echo "${COMPREPLY[@]}"
}
complete_line aetheria tr
complete_line aetheria prove ''
complete_line aetheria train config.yaml --overw
complete_line aetheria prove elastic config.yaml --cont
"""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell, tmp_path, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    done = subprocess.run(
        [shell, "-c", COMPLETE],
        env={**os.environ, "SCRIPT": str(tmp_path / "script")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    proofs = "elastic replay resume"
    assert done.stdout.splitlines() == ["train", proofs, "--overwrite", "--control"]


def test_fish_is_told_the_same(capsys):
    assert main(["completion", "fish"]) == 0
    out = capsys.readouterr().out
    assert "-n '__fish_use_subcommand' -a 'train " in out
    assert "-n '__fish_seen_subcommand_from train' -l overwrite" in out
