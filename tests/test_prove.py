"""`aetheria prove elastic`: holds where it should, fails where it should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.long import covering, covering_rows, only_long
from support.runs import DIGITS

from aetheria.errors import AetheriaError
from aetheria.tools.prove.elastic import ElasticProof
from aetheria.tools.prove.runs import Evidence, Place, count_cores

pytestmark = pytest.mark.uncached

several_cores = count_cores() > 1
ORTHOGONAL = """
import dataclasses

import jax
from flax import linen as nn

from aetheria import register_model
from aetheria.models.mlp import SimpleMLP


@register_model("Orthogonal")
@dataclasses.dataclass(frozen=True)
class Orthogonal(SimpleMLP):
    def network(self):
        dense = lambda size: nn.Dense(size, kernel_init=nn.initializers.orthogonal())
        return Layers(dense(768), dense(768), nn.Dense(10))

    def partition_rules(self):
        return ()


class Layers(nn.Module):
    first: nn.Module
    second: nn.Module
    head: nn.Module

    @nn.compact
    def __call__(self, x, train):
        return self.head(nn.relu(self.second(nn.relu(self.first(x)))))
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(DIGITS))
    return str(file)


@pytest.mark.slow
@pytest.mark.parametrize("processes", covering(["1", "1,2"], default=["1"]))
def test_the_proof_holds_on_two_numbers_of_devices_and_processes(cli, config, processes):
    options = ("--steps=10", "--devices=1,2", f"--processes={processes}")
    done = cli("prove", "elastic", config, *options, as_user=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line[:2].strip().isdigit()]
    # 2 x 1 if there are two processes, another number of threads, one core, and 2 -> 1.
    in_two = ["2"] * (processes == "1,2")
    assert [row[0] for row in rows] == ["1", "2", *in_two, "1", *["1"] * several_cores, "2"]
    assert all(row[-2:] == ["same", "bits"] for row in rows)
    assert "elastic: 10 steps, the same bits in every row" in done.stdout


@only_long
@pytest.mark.slow
def test_the_proof_holds_on_a_mesh_with_fsdp_in_one_process_and_in_two(cli, config):
    options = ("--steps=10", "--devices=1", "--processes=1,2", "--mesh=data=2,fsdp=2")
    done = cli("prove", "elastic", config, *options, as_user=True)
    assert done.returncode == 0, done.stderr
    for name in ("4", "2 x 2"):
        assert f"devices {name} (data=2, fsdp=2): done" in done.stdout
    assert "devices 4 (data=2, fsdp=2) -> 1: done" in done.stdout
    # With the one of other threads, that of one core, and the verdict.
    assert done.stdout.count("same bits") == 5 + several_cores + 1


FACTORS = """
import hashlib, numpy as np, scipy.linalg
matrix = np.random.default_rng(0).normal(size=(768, 768)).astype(np.float32)
print(hashlib.sha256(scipy.linalg.qr(matrix)[0].tobytes()).hexdigest())
"""


def same_on_one_core():
    """Whether an orthogonal initializer's decomposition has the same bits with one thread."""
    digests = set()
    for number in ("1", str(count_cores())):
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": number}
        command = [sys.executable, "-c", FACTORS]
        digests.add(subprocess.run(command, env=environ, check=True, capture_output=True).stdout)
    return len(digests) == 1


@pytest.mark.slow
@pytest.mark.skipif(not several_cores, reason="one core: no affinity to change")
@pytest.mark.parametrize(
    ("control", "difference"),
    covering_rows({"proof": (False, None), "control": (True, "params at step 0")}, default=[]),
)
def test_an_orthogonal_initializer_is_the_same_on_one_core(
    config, tmp_path, monkeypatch, control, difference
):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "orthogonal.py").write_text(ORTHOGONAL)
    proof = ElasticProof(
        config_file=Path(config),
        overrides=("model_name=Orthogonal", "batch_size=64", "lanes=1"),
        steps=1,
        devices=(1,),
        processes=(1,),
        control=control,
        project=tmp_path,
    )
    cases = [proof.cases()[0], next(case for case in proof.cases() if "core" in case.name)]
    evidence = [proof.run(case, tmp_path / case.name) for case in cases]
    if control and same_on_one_core():
        pytest.skip("LAPACK gives the same bits on one core of this machine")
    assert evidence[1].differs_from(evidence[0]) == difference
    assert not (tmp_path / "compiled").exists(), "no row runs what was compiled for another"


@pytest.mark.slow
def test_the_control_differs_between_one_device_and_two(config, tmp_path):
    """What `--control` runs: the fast program, whose bits depend on the devices."""
    proof = ElasticProof(
        config_file=Path(config),
        overrides=(),
        steps=5,
        devices=(1, 2),
        processes=(1,),
        control=True,
        project=None,
    )
    one, two = (proof.run(case, tmp_path / case.name) for case in proof.cases()[:2])
    assert (two.differs_from(one) or "").startswith("train/")


@only_long
@pytest.mark.slow
def test_the_control_finds_the_difference_and_names_it(cli, config):
    options = ("--steps=5", "--devices=1,8", "--processes=1", "--control")
    done = cli("prove", "elastic", config, *options, as_user=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "differs: train/" in done.stdout
    assert "fast: 5 steps, not the same bits" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices=1"], "--devices: expected at least two numbers"),
        (["--devices=1,x"], "expected a number of 1 or more, got 'x'"),
        (["--devices=1,2", "--processes=3"], "--processes: expected numbers that divide the 2"),
        (["--mesh=data=2,tensor=2"], "--mesh: expected the axes data and fsdp, got 'tensor'; "),
        (["--mesh=fsdp"], "expected sizes of axes such as data=16,fsdp=8"),
        (["--devices=1", "--mesh=fsdp=3"], "expected numbers that divide the 3 devices, got 2"),
        (["--set", "lanes=3"], "lanes: expected a power of two, got 3"),
        (["--set", "epocs=3"], "did you mean 'epochs'?"),
    ],
)
def test_a_proof_that_cannot_be_made_is_refused_in_one_line(command, config, options, message):
    overrides = ["--set", "reproducibility=elastic"]
    done = command("prove", "elastic", config, *overrides, *options)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_run_that_cannot_be_made_says_which_and_why(config, tmp_path):
    proof = ElasticProof(
        config_file=Path(config),
        overrides=("lanes=2",),
        steps=2,
        devices=(4, 1),
        processes=(1,),
        control=False,
        project=None,
    )
    with pytest.raises(AetheriaError, match=r"run on 4 device\(s\): .* divides the 2 lanes, got 4"):
        next(proof.rows())


LINE = {"split": "train", "step": 1, "loss": 0.5, "accuracy": 0.25}


def evidence(metrics=(LINE,), initial="i", **digests):
    digests = {"params": "a", "opt_state": "b", **digests}
    return Evidence(tuple(metrics), digests, initial={"params": initial})


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (evidence(), None),
        (evidence([{**LINE, "loss": 0.5000000001}]), "train/loss at step 1"),
        (evidence([LINE, LINE]), "1 metric lines instead of 2"),
        (evidence(opt_state="c"), "opt_state"),
        (evidence(initial="d"), "params at step 0"),
    ],
)
def test_the_first_difference_is_named(other, difference):
    assert evidence().differs_from(other) == difference


def test_places_are_named_by_devices_and_processes():
    assert [Place(8).name, Place(8, 2).name] == ["8", "2 x 4"]
    assert Place(1, cores=1).name == "1 (1 core)"
    assert [len(options) for options in Place(8, 2).options()] == [3, 3]
    laid_out = Place(8, 2, mesh={"data": 2, "fsdp": 4})
    assert laid_out.name == "2 x 4 (data=2, fsdp=4)"
    assert Place(8).environment()["JAX_PLATFORMS"] == "cpu"  # where there is a GPU, too
    assert [*Place(8).settings, *laid_out.settings] == ["mesh={data: 8}", "mesh={data: 2, fsdp: 4}"]
