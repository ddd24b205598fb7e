"""`aetheria prove resume`: holds where it should, and notices whatever is left out."""

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from support.long import covering, covering_rows
from support.runs import DIGITS

from aetheria.config.files import load_config
from aetheria.tools.prove.drop import FIELDS
from aetheria.tools.prove.resume import ResumeProof, _check, _check_examples

pytestmark = pytest.mark.uncached

# Dropout, shuffling, accumulation, an epoch that ends at step 23, and a listener with a state.
EVENTFUL = {
    **DIGITS,
    "grad_accumulation_steps": 2,
    "eval_every_steps": 2,
    # What is best is found at once, and can be known to a resumed run from its snapshot alone.
    "callbacks": [{"early_stopping": {"mode": "max", "patience": 50}}],
}


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(EVENTFUL))
    return str(file)


def verdicts(done):
    """What the table says of each thing compared."""
    lines = done.stdout[done.stdout.index("─") :].splitlines()[1:-1]
    return {line[:13].strip(): line.split("  ")[-1].strip() for line in lines if line.strip()}


@pytest.mark.slow
@pytest.mark.parametrize("number", covering(["KILL", "TERM"], default=["KILL"]))
def test_a_run_that_is_stopped_and_resumed_is_the_same(cli, config, number):
    """The first stop is before anything is saved: a killed run begins again."""
    options = ("--steps=30", "--kill-at=1,25", f"--signal={number}")
    done = cli("prove", "resume", config, *options, as_user=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = verdicts(done)
    state = {"params", "opt_state", "base_key", "counters"}
    assert {"metric lines", "metrics.csv", "examples", "progress", "listeners", *state} <= {*found}
    assert {*found.values()} == {"same"}
    assert f"resume: 30 steps, 2 stops by {number}: the same bits" in done.stdout
    (started_at,) = [line for line in done.stdout.splitlines() if "processes started" in line]
    assert started_at.count("example ") == 3  # one process for each stop, and the last
    assert ("example 0, example 0," in started_at) == (number == "KILL")


@dataclass(frozen=True, kw_only=True)
class SharedRuns(ResumeProof):
    """A proof that takes its uninterrupted and its killed run from `made`, once they are there."""

    made: Path

    def _once(self, name, workdir, train):
        if not (self.made / name).exists():
            train(self.made / name)
        shutil.copytree(self.made / name, workdir)

    def _train(self, workdir):
        if workdir.exists():  # what was killed is resumed
            super()._train(workdir)
        else:
            self._once("whole", workdir, super()._train)

    def _train_until(self, workdir, step):
        train = super()._train_until
        self._once("killed", workdir, lambda folder: train(folder, step))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    covering(["rng", "cursor", "opt_state", "listeners"], default=["rng"]),
)
def test_a_field_that_is_dropped_is_noticed(config, made, field):
    proof = SharedRuns(
        config_file=Path(config),
        config=load_config(Path(config)),
        overrides=(),
        steps=12,
        kill_at=(8,),
        signal_number=signal.SIGKILL,
        drop=field,
        project=None,
        made=made,
    )
    assert any(check.difference for check in proof.run(lambda line: None))


@pytest.mark.slow
@pytest.mark.parametrize("field", covering(["rng", "cursor"], default=[]))
def test_the_command_says_what_became_of_a_dropped_field(cli, config, field):
    options = ("--steps=12", "--kill-at=8", f"--drop={field}")
    done = cli("prove", "resume", config, *options, as_user=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"without {field}: not the same: " in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kill-at=9,4"], "--kill-at: expected increasing steps below --steps (12), got 9,4; "),
        (["--kill-at=12"], "--kill-at: expected increasing steps below --steps (12), got 12; "),
        (["--kill-at=x"], "expected a number of 1 or more, got 'x'"),
        (["--signal=HUP"], "--signal: expected one of KILL, TERM, got 'HUP'"),
        (["--drop=seed"], f"--drop: expected one of {', '.join(FIELDS)}, got 'seed'"),
        (["--set", "epocs=3"], "did you mean 'epochs'?"),
    ],
)
def test_a_proof_that_cannot_be_made_is_refused_in_one_line(command, config, options, message):
    done = command("prove", "resume", config, "--steps=12", *options)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    covering_rows(
        {
            "empty field": (
                ["--steps=12", "--drop=model_state"],
                "expected a field that this run's snapshots",
            ),
            "no snapshot": (
                ["--steps=12", "--kill-at=1", "--drop=rng"],
                "expected a snapshot before the first kill",
            ),
            "steps": (
                ["--steps=90"],
                "--steps: expected at most the 46 steps of this run, got 90; ",
            ),
        },
        default=[],
    ),
)
def test_a_proof_that_proves_impossible_says_so_in_one_line(cli, config, options, message):
    done = cli("prove", "resume", config, *options)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("lives", "difference"),
    [
        ([(0, [4, 2]), (1, [2, 0, 3, 1])], None),
        ([(0, [4, 2, 0, 3, 9])], None),  # read ahead, past the end
        ([(0, [4, 2]), (1, [0, 2, 3])], "example 1"),
        ([(0, [2, 4]), (0, [4, 2, 0, 3])], "example 0"),  # of a process that was killed
        ([(0, [4]), (2, [0, 3])], "3 examples instead of 4"),
    ],
)
def test_examples_are_compared_by_position(lives, difference):
    assert _check_examples([(0, [4, 2, 0, 3, 1])], lives, end=4).difference == difference


def test_what_is_not_a_number_equals_itself():
    assert _check("engine", {"loss": float("nan")}, {"loss": float("nan")}).difference is None
    assert _check("engine", {"loss": 1.0}, {"loss": float("nan")}).difference == "engine"
