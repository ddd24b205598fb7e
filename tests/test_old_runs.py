"""Runs that 0.1.0 left in the middle: read, predicted from, and resumed to the same numbers."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aetheria import predict
from aetheria.cli.main import main
from aetheria.engine.record import SCHEMA_VERSION
from aetheria.hardware.jax.environment import describe_processor
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.snapshot_files import write_snapshot
from aetheria.snapshots.store import list_snapshots, read_record

pytestmark = pytest.mark.optimized  # as the old runs were

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
NAMES = list(EXPECTED["runs"])


@dataclass(frozen=True)
class OldRun:
    """A copy of a run folder, before it is resumed or after; then with what was printed."""

    name: str
    folder: Path
    out: str = ""

    @property
    def expected(self) -> dict[str, Any]:
        """What the release that wrote it reaches when it resumes it."""
        return EXPECTED["runs"][self.name]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def same_libraries() -> bool:
    return all(importlib.metadata.version(n) == v for n, v in EXPECTED["versions"].items())


def same_processor() -> bool:
    here = describe_processor()
    return all(here.get(name) == value for name, value in EXPECTED["processor"].items())


def resume(run: OldRun) -> subprocess.CompletedProcess:
    """Resumes to the end, without --accept-changes on the same libraries; in a process like the one
    that wrote the folder: one device, two threads.
    """
    options = [] if same_libraries() else ["--accept-changes"]
    command = [sys.executable, "-m", "aetheria", "train", str(GOLDEN / "run_0_1_0.yaml")]
    return subprocess.run(
        [*command, f"--workdir={run.folder}", "--resume=latest", *options],
        env={**os.environ, "XLA_FLAGS": "", "NPROC": "2"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def copy_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OldRun]:
    def copy(name: str) -> OldRun:
        folder = tmp_path_factory.mktemp(name) / "run"
        shutil.copytree(GOLDEN / name, folder)
        return OldRun(name, folder)

    return copy


@pytest.fixture(scope="module", params=NAMES)
def resumed(request, copy_of) -> OldRun:
    """The run after it was resumed to its end."""
    run = copy_of(request.param)
    done = resume(run)
    assert done.returncode == 0, done.stderr
    return replace(run, out=done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_is_listed_verified_and_reported(copy_of, name, capsys):
    folder = str(copy_of(name).folder)
    assert main(["snapshots", folder, "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(item["step"], item["problem"], item["best"]) for item in listed] == [
        (6, "", True),
        (10, "", False),
    ]
    assert main(["snapshots", "verify", folder]) == 0
    assert capsys.readouterr().out.count(": sound") == 2
    assert main(["report", folder]) == 0
    assert "0 to 10" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_an_old_snapshot_predicts_what_its_weights_say(copy_of, name):
    folder = copy_of(name).folder
    inputs = np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, 64)
    arrays = read_snapshot(folder / "checkpoints" / "snapshot_step10").arrays
    hidden = inputs @ arrays["params/Dense_0/kernel"] + arrays["params/Dense_0/bias"]
    hidden = np.maximum(hidden, 0)
    expected = hidden @ arrays["params/Dense_1/kernel"] + arrays["params/Dense_1/bias"]
    found = predict.load(folder).predict(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_resumed_old_run_reaches_what_the_old_release_reaches(resumed):
    summary, expected = resumed.summary, resumed.expected
    assert summary["status"] == "completed"
    for name in ("steps", "examples_seen"):
        assert summary[name] == expected[name]
    final = {k: v for k, v in expected["final"].items() if k.startswith("eval/")}
    for name, value in final.items():
        assert summary["final"][name] == pytest.approx(value, rel=1e-2)
    if same_libraries() and same_processor():
        assert summary["params_sha256"] == expected["params_sha256"]
        assert {name: summary["final"][name] for name in final} == final


def test_what_differs_from_the_old_release_is_no_more_than_named(resumed):
    """Files moved and changed, but nothing that decides the numbers did."""
    notes = [line for line in resumed.out.splitlines() if line.startswith("changed since")]
    if resumed.name == "run_0_1_0":
        assert not notes  # its records do not say what the run depends on
    elif same_libraries() and same_processor():
        assert notes and all("code of" in line or "machine." in line for line in notes)


def test_a_resumed_old_run_goes_on_in_its_own_files(resumed):
    logged = [(line["split"], line["step"]) for line in resumed.lines]
    whole = [("train", 4), ("eval", 6), ("train", 8), ("train", 12), ("eval", 12)]
    assert logged == [*whole, ("train", 16), ("eval", 18)]
    assert resumed.summary["goodput"]["processes"] == 2
    newest = list_snapshots(resumed.folder / "checkpoints")[-1]
    record = read_record(newest.path)
    assert (record.progress.step, record.schema_version) == (18, SCHEMA_VERSION)
    assert record.engine.eval_step == 18 and record.engine.pending is None
    text = json.loads((newest.path / "record" / "metadata").read_text())
    assert text["schema_version"] == SCHEMA_VERSION


def test_the_logging_interval_of_an_old_run_goes_on_where_it_was_recorded(resumed):
    """The older of the two records no sums, so that its first interval is a shorter one."""
    (first,) = [line for line in resumed.lines if (line["split"], line["step"]) == ("train", 12)]
    record = json.loads(
        (GOLDEN / resumed.name / "checkpoints/snapshot_step10/record/metadata").read_text()
    )
    assert ("interval" in record["engine"]) == (resumed.name == "run_0_1_0_with_provenance")
    assert np.isfinite(first["loss"])
    if "interval" in record["engine"] and same_libraries() and same_processor():
        final = resumed.expected["final"]
        assert {name: resumed.summary["final"][name] for name in final} == final


def test_an_old_run_that_lost_its_position_in_the_data_ends_elsewhere(copy_of):
    """Control: the comparison above finds a record that is read wrong."""
    run = copy_of(NAMES[0])
    snapshot = read_snapshot(run.folder / "checkpoints" / "snapshot_step10")
    progress = replace(snapshot.record.progress, examples_seen=256)
    shutil.rmtree(snapshot.path)
    write_snapshot(snapshot.path, snapshot.arrays, replace(snapshot.record, progress=progress))
    assert resume(run).returncode == 0
    assert run.summary["params_sha256"] != run.expected["params_sha256"]
