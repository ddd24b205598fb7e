"""Kills at random moments: every resume is exact, and no snapshot is lost."""

import os
import random
import subprocess
import sys
import time

import pytest
import yaml
from support.compile_cache import own_cache
from support.long import long_or
from support.runs import DIGITS, Finished, without_rate

from aetheria.snapshots import read_snapshot
from aetheria.snapshots.store import find_newest, list_snapshots

pytestmark = pytest.mark.uncached

# Snapshots so often that one is nearly always under way, evaluations that take a share of the time.
EVENTFUL = {
    **DIGITS,
    "grad_accumulation_steps": 2,
    "ema_decay": 0.99,
    "epochs": 100_000,
    "log_every_steps": 20,
    "eval_every_steps": 400,
    "callbacks": [{"early_stopping": {"patience": 1_000_000}}],
    "snapshot": {"every_steps": 50, "every_epochs": 0, "keep_last": 3},
}


class Trainer:
    """Starts real processes on one config, in one folder or another."""

    def __init__(self, folder):
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(EVENTFUL))

    def start(self, name, *options):
        command = [sys.executable, "-m", "aetheria", "train", str(self.config)]
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [*command, f"--workdir={name}", "--resume=auto", *options],
                cwd=self.folder,
                env={**os.environ, "XLA_FLAGS": "", **own_cache(self.folder / f"{name} compiled")},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self):
        return (self.folder / "output.txt").read_text()


def size_of(file):
    return file.stat().st_size if file.exists() else 0


def wait_until_it_trains(process, file, before, trainer):
    """Returns when a process has added a line to its metrics, whose size was `before` it began.

    A resumed run first cuts them back to what it goes on from, if they hold more.
    """
    size, changes = before, 0

    def has_changed_twice():  # it is cut and grows, or grows twice
        nonlocal size, changes
        changes, size = changes + (size_of(file) != size), size_of(file)
        return changes >= 2

    wait_until(process, has_changed_twice, trainer)


def wait_until(process, is_so, trainer):
    """Returns when something is so, while the process runs."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None, trainer.output()
        assert time.monotonic() < deadline, trainer.output()
        time.sleep(0.001)


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
    trainer, chance = Trainer(tmp_path), random.Random(5)
    run, checkpoints = tmp_path / "killed", tmp_path / "killed" / "checkpoints"
    newest_before, moments = 0, set()
    num_kills = long_or(5, 50)
    for kill in range(num_kills):
        metrics = run / "metrics.jsonl"
        before = size_of(metrics)
        process = trainer.start("killed")
        is_late = kill == num_kills - 1 and not newest_before
        if is_late:  # a slow machine, on which no kill came after a snapshot yet
            wait_until(process, lambda: list_snapshots(checkpoints), trainer)
        elif chance.random() < 0.8:
            wait_until_it_trains(process, metrics, before, trainer)
            time.sleep(chance.uniform(0, 0.5))
        else:  # while it imports, reads, or compiles
            time.sleep(chance.uniform(0.1, 3))
        seen = [info.step for info in list_snapshots(checkpoints)]
        process.kill()
        assert process.wait() == -9, trainer.output()
        moments.add(bool(list(checkpoints.glob("*.orbax-checkpoint-tmp*"))))
        snapshots = list_snapshots(checkpoints)
        steps = [read_snapshot(info.path).record.progress.step for info in snapshots]
        assert steps == [info.step for info in snapshots]  # each is whole
        assert len(steps) >= min(len(seen), 3)
        newest = steps[-1] if steps else 0
        assert newest >= max([newest_before, *seen])
        newest_before = newest
    assert not (checkpoints / "quarantine").exists()
    if long_or(0, 1):
        assert moments == {True, False}  # in the middle of a save, and not
    assert newest_before > 0  # the run went on between them, how far is a matter of the machine

    end = f"--stop-at-step={newest_before + 100}"
    for name in ("killed", "whole"):
        assert trainer.start(name, end).wait() == 75, trainer.output()
    killed, whole = Finished(75, run), Finished(75, tmp_path / "whole")
    assert killed.summary["steps"] == newest_before + 100
    one, other = (find_newest(r.run_dir / "checkpoints")[0] for r in (killed, whole))
    for path in other.arrays:
        assert one.arrays[path].tobytes() == other.arrays[path].tobytes(), path
    assert one.record.progress == other.record.progress
    assert one.record.listeners == other.record.listeners
    assert without_rate(killed.metrics) == without_rate(whole.metrics)
