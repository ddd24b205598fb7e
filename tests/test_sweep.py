"""`aetheria sweep`: what it refuses, what it runs, and what a kill leaves of it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml
from support.compile_cache import quick_compilation
from support.long import long_or
from support.runs import DIGITS

optuna = pytest.importorskip("optuna")

from aetheria.snapshots.run_lock import RunLock  # noqa: E402
from aetheria.snapshots.store import list_snapshots  # noqa: E402
from aetheria.tools.sweep.space import Choice, Range, grid_of, read_space  # noqa: E402

RATES = "--space=learning_rate=log:1e-4:1e-1"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    return tmp_path


STEPS_PER_EPOCH = 23  # of the digits


def write_config(folder, **changes):
    (folder / "c.yaml").write_text(yaml.safe_dump({**DIGITS, "epochs": 1, **changes}))


def results(folder):
    return json.loads((folder / "sweep.json").read_text())


def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_a_space_is_read():
    space, written = read_space(
        [
            "a=log:1e-4:1e-1",
            "b=16,x,null",
            "c=int:8:32:8",
            "d=uniform:0:0.5",
            "e=logint:1:64",
        ]
    )
    assert space == {
        "a": Range(1e-4, 1e-1, log=True),
        "b": Choice((16, "x", None)),
        "c": Range(8, 32, whole=True, step=8),
        "d": Range(0.0, 0.5),
        "e": Range(1, 64, log=True, whole=True),
    }
    assert written["a"] == "log:1e-4:1e-1"
    assert [point["c"] for point in grid_of({"c": space["c"]})] == [8, 16, 24, 32]


def test_a_space_in_a_file_is_the_same_as_in_flags(here):
    (here / "space.yaml").write_text("learning_rate: log:1e-4:1e-1\nbatch_size: [16, 32]\n")
    flags = ["learning_rate=log:1e-4:1e-1", "batch_size=16,32"]
    assert read_space(["space.yaml"]) == read_space(flags)


WRONG = {
    "no space": ([], "--space: expected a key with its values"),
    "no key": (["--space=16,32"], "--space: expected KEY=VALUES or a file"),
    "empty choice": (["--space=batch_size="], "--space batch_size: expected at least one value"),
    "low above high": (["--space=learning_rate=log:1:0.1"], "expected LOW below HIGH"),
    "logarithm of zero": (["--space=learning_rate=log:0:1"], "expected LOW above 0"),
    "no kind": (["--space=learning_rate=1e-4:1e-1"], "write uniform:1e-4:1e-1, log:1e-4:1e-1"),
    "not whole": (["--space=batch_size=int:1:8.5"], "expected whole numbers"),
    "step too large": (["--space=batch_size=int:1:8:9"], "expected a STEP above 0 and at most"),
    "no number": (["--space=learning_rate=log:a:b"], "expected KIND:LOW:HIGH"),
    "a list": (["--space=mesh=[1,2],[2,1]"], "lists and keys cannot be searched"),
    "twice": (["--space=batch_size=32,32"], "expected different values"),
    "one key twice": (["--space=seed=1,2", "--space=seed=3,4"], "expected it once"),
    "unknown key": (["--space=lerning_rate=1,2"], "did you mean 'learning_rate'?"),
    "wrong type": (["--space=batch_size=32,many"], "batch_size: expected a whole number"),
    "out of range": (["--space=batch_size=int:0:8"], "batch_size: expected 1 or more"),
    "unknown of the model": (["--space=model_params.hiden_dim=8"], "hidden_dim"),
    "what is compared": (["--space=snapshot.mode=min,max"], "by which they are compared"),
    "seeds twice": (["--space=seed=1,2", "--seeds=2"], "expected 1 with seed in --space"),
    "no grid": (["--sampler=grid", RATES], "expected choices, or a range with a step"),
    "unknown metric": ([RATES, "--set=snapshot.monitor=eval/nothing"], "snapshot.monitor"),
    "hyphens": ([RATES, "--sbatch=--time=1"], "expected an option without hyphens"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_refused_before_anything_is_written(arguments, said, here, command):
    done = command("sweep", "c.yaml", *arguments)
    assert done.returncode == 2 and said in done.stderr, done
    assert len(done.stderr.splitlines()) == 1 and not (here / "sweeps").exists()


def test_several_mistakes_are_reported_together(here, command):
    done = command("sweep", "c.yaml", "--space=learning_rate=log:1:0.1", "--space=a=")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2, done.stderr


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A grid of two points with two seeds each, of which one point cannot be learned."""
    folder = tmp_path_factory.mktemp("swept")
    write_config(folder)
    words = ["--space=learning_rate=0.003,1e30", "--seeds=2", "--sampler=grid", "--jobs=2"]
    done = sweep(folder, *words)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, words


def sweep(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "aetheria", "sweep", "c.yaml", *words],
        cwd=folder,
        env={**os.environ, **quick_compilation()},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_value_of_a_trial_is_the_mean_over_its_seeds(swept):
    folder, out, _ = swept
    found = results(folder / "sweeps" / "c")
    good, bad = found["trials"]
    values = [run["value"] for run in good["runs"]]
    assert [run["seed"] for run in good["runs"]] == [0, 1] and values[0] != values[1]
    assert good["value"] == pytest.approx(sum(values) / 2)
    assert good["spread"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert (good["status"], bad["status"]) == ("complete", "failed")
    assert found["counts"] == {"complete": 1, "pruned": 0, "failed": 1, "running": 0}
    assert found["best"] == good and f"best: trial 0, eval/loss {good['value']:.6g} ±" in out


def test_each_run_of_a_trial_is_a_run_like_any_other(swept, cli, here):
    folder, _, _ = swept
    run = folder / "sweeps" / "c" / "trial_0" / "seed_1"
    config = json.loads((run / "config.json").read_text())
    assert (config["learning_rate"], config["seed"]) == (0.003, 1)
    assert cli("train", "c.yaml", "--set=seed=1", "--workdir=run").returncode == 0
    digest = summary(run)["params_sha256"]
    assert digest == summary(here / "run")["params_sha256"]
    other = folder / "sweeps" / "c" / "trial_0" / "seed_0"  # the control
    assert digest != summary(other)["params_sha256"]


def test_the_same_command_finds_nothing_to_do_and_another_is_refused(swept, command, monkeypatch):
    folder, _, words = swept
    monkeypatch.chdir(folder)
    before = results(folder / "sweeps" / "c")
    assert command("sweep", "c.yaml", *words).returncode == 0
    assert results(folder / "sweeps" / "c") == before
    for changed, said in (
        ([*words, "--seeds=3"], "expected the seeds of the sweep there"),
        (["--space=learning_rate=0.003,0.1", *words[1:]], "expected the space of the sweep there"),
        ([*words, "--set=epochs=2"], "expected epochs=1 as in the sweep there, got 2"),
    ):
        done = command("sweep", "c.yaml", *changed)
        assert done.returncode == 2 and said in done.stderr, done
    assert results(folder / "sweeps" / "c") == before


def test_a_folder_that_holds_something_else_is_refused(here, command):
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("mine")
    done = command("sweep", "c.yaml", RATES, "--workdir=mine")
    assert done.returncode == 2 and "expected the folder of a sweep" in done.stderr
    assert [file.name for file in (here / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_trial_that_is_worse_than_others_is_pruned_with_a_snapshot(here):
    write_config(here, epochs=200, snapshot={"every_epochs": 50})
    folder, words = here / "sweeps" / "c", ("--space=learning_rate=0.0001",)
    assert sweep(here, *words, "--trials=1").returncode == 0
    control = results(folder)["trials"][0]
    assert control["status"] == "complete", "alone, it is"
    add_better_trials(folder, {int(step): v - 1 for step, v in control["intermediate"].items()})
    done = sweep(here, *words, "--trials=7")
    assert done.returncode == 0, done.stderr
    pruned = results(folder)["trials"][6]
    assert (pruned["status"], pruned["reason"]) == ("pruned", "pruned at step 23")
    stopped = summary(folder / "trial_6" / "seed_0")
    assert (stopped["exit_code"], stopped["saved"]) == (75, True)
    assert stopped["steps"] < summary(folder / "trial_0" / "seed_0")["steps"]
    assert results(folder)["best"]["value"] == min(control["intermediate"].values()) - 1


def add_better_trials(folder, values):
    """Five trials that are better at each step, as many as the pruner asks for."""
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    )
    study = optuna.load_study(study_name=folder.name, storage=storage)
    for _ in range(5):
        study.add_trial(
            optuna.trial.create_trial(
                params={"learning_rate": 0.0001},
                distributions=study.trials[0].distributions,
                value=min(values.values()),
                intermediate_values=values,
            )
        )


def holder(run):
    return json.loads((run / "holder.json").read_text())["pid"]


class Sweep:
    """A sweep in a process of its own, that can be killed."""

    def __init__(self, folder, *words):
        self.folder = folder / "sweeps" / "c"
        with (folder / "out.txt").open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aetheria", "sweep", "c.yaml", *words],
                cwd=folder,
                env={**os.environ, **quick_compilation()},
                stdout=out,
                stderr=out,
            )

    def wait_for(self, condition, seconds=150):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, (self.folder.parent.parent / "out.txt").read_text()
            time.sleep(0.05)
        return found

    def running(self):
        """The runs that are under way and have a snapshot, of the first half of their epochs: one
        that is about to end may have ended before it is killed.
        """
        half = yaml.safe_load((self.folder.parent.parent / "c.yaml").read_text())["epochs"] // 2
        return [
            path.parent
            for path in self.folder.glob("trial_*/seed_0/holder.json")
            if (found := list_snapshots(path.parent / "checkpoints"))
            and (found[-1].step or 0) <= half * STEPS_PER_EPOCH
            and not (path.parent / "summary.json").exists()
        ]

    def num_ended(self):
        return len(list(self.folder.glob("trial_*/seed_0/summary.json")))


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_sweep_that_is_killed_twice_loses_no_trial_and_runs_none_twice(tmp_path, cli):
    write_config(tmp_path, epochs=40, snapshot={"every_epochs": 5, "keep_last": 2})
    num_trials = long_or(4, 12)
    words = (RATES, f"--trials={num_trials}", "--jobs=2", "--sampler=random", "--pruner=none")

    first = Sweep(tmp_path, *words)
    cut = first.wait_for(lambda: first.num_ended() >= 1 and first.running())
    os.kill(first.process.pid, signal.SIGKILL)
    for run in cut:  # at once, as if the machine had lost its power: a run takes seconds
        os.kill(holder(run), signal.SIGKILL)
    first.process.wait()

    second = Sweep(tmp_path, *words)
    second.wait_for(lambda: second.num_ended() >= long_or(2, 7) and second.running())
    os.kill(second.process.pid, signal.SIGKILL)  # the runs themselves go on
    second.process.wait()

    third = Sweep(tmp_path, *words)
    assert third.process.wait(200) == 0, (tmp_path / "out.txt").read_text()
    found = results(third.folder)
    assert [trial["number"] for trial in found["trials"]] == list(range(num_trials))
    assert found["counts"]["complete"] == num_trials
    assert len({trial["point"]["learning_rate"] for trial in found["trials"]}) == num_trials
    logs = {path.parent.name: path.read_text() for path in third.folder.glob("*/seed_0.log")}
    assert sorted(logs) == sorted(f"trial_{number}" for number in range(num_trials))
    for name, log in logs.items():
        assert log.count("starting afresh") == 1, (name, log)
        continued = third.folder / name / "seed_0" in cut
        assert ("resuming from" in log) == continued, (name, log)
    # A trial that was cut has the bits of one that was not.
    cli("train", str(cut[0].with_suffix(".yaml")), "--workdir=again")
    again = summary(tmp_path / "again")
    assert again["params_sha256"] == summary(cut[0])["params_sha256"]


@pytest.mark.slow
def test_a_refusal_is_known_though_the_process_that_has_the_run_writes_after_it(tmp_path):
    from aetheria.config.files import load_config
    from aetheria.tools.sweep.process import RunProcess

    run = tmp_path / "run"
    write_config(tmp_path)
    config = load_config(tmp_path / "c.yaml", [])

    def ended(config):
        process = RunProcess(run, config, tmp_path, {})
        process._process.wait(100)
        with run.with_suffix(".log").open("a") as log:
            log.write("writes           jsonl; a snapshot takes 14.56 KB\n")
        return process

    lock = RunLock(run)
    lock.acquire()
    refused = ended(config)
    lock.release()
    assert (refused.exit_code(), refused.was_refused()) == (2, True)
    # The control: what another start was told is in the same log.
    wrong = ended(replace(config, data_name="nothing"))
    assert (wrong.exit_code(), wrong.was_refused()) == (2, False)


@pytest.mark.slow
def test_a_sweep_that_is_signalled_stops_with_snapshots_and_goes_on(tmp_path):
    """It goes on although another process has the run when its own process asks for it: so does
    the run of a sweep that was killed, some seconds after it was started.
    """
    write_config(tmp_path, epochs=100, snapshot={"every_epochs": 10})
    first = Sweep(tmp_path, RATES, "--trials=1")
    first.wait_for(first.running)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(60) == 75
    assert results(first.folder)["counts"]["running"] == 1
    stopped = summary(first.folder / "trial_0" / "seed_0")
    assert (stopped["exit_code"], stopped["reason"]) == (75, "signal SIGTERM")
    run = first.folder / "trial_0" / "seed_0"
    log, lock = run.with_suffix(".log"), RunLock(run)
    before = log.stat().st_size
    run.with_suffix(".yaml").unlink()  # written again when a process of the run is started
    second = Sweep(tmp_path, RATES, "--trials=1")
    second.wait_for(run.with_suffix(".yaml").exists)
    lock.acquire()
    second.wait_for(lambda: "held by process" in log.read_text()[before:])
    lock.release()
    assert second.process.wait(60) == 0
    assert f"(step {stopped['steps']}, " in log.read_text()
    assert results(first.folder)["counts"]["complete"] == 1
