"""Shared by all tests: eight virtual devices, the option `--long`, and two ways to train.

The default run proves each promise once and takes about fourteen minutes on two cores; `--long`
adds what repeats a proof more often or over more combinations (`pytest --collect-only -n0 -m long`
lists it):

- more random kills, signals, damages, schedules, trials of a sweep and hypothesis examples
  (`long_or`);
- the rest of the matrices of strategy x precision x model x mesh, of which the default run takes
  a subset in which every value occurs (`covering`);
- starts of several processes of which another test proves as much: two whole runs that end in two
  (by default torchrun's two go on in one), signals to a process beside those of chaos/, a listener
  that stops two, a micro-batch that does not divide over two ranks;
- what is put together from two proofs of the default run: two ranks of PyTorch that go on in one
  and with JAX;
- the second notebook; lanes on up to eight devices instead of two, and in bfloat16, accumulation
  over four micro-batches; the first bits of other meshes, and the parameters that they learn;
- of the ways that a step number reaches a schedule, the caches of generation, the cases of the
  guard, of a mesh without rules, of convolutions, of attention, of stops in a pass and of unusable
  cache folders: some, one of each kind;
- the second kill of a run with all services, the second way in which a terminal lacks Unicode, the
  signal in an evaluation of a process (by default in this process), the memory of remat `dots`;
- the fast program beside the elastic where both evaluate, average and count over devices, the step
  of a loop of one's own in mixed precision, a listener that looks at a model in parts of one
  process (by default of two), each logger alone beside none and all;
- an installed package beside a wheel (by default beside this tree), a run past a damaged snapshot
  beside the one of test_snapshots, axe on the light page beside the dark one;
- trainings of minutes: three ranks of PyTorch, the shipped language model and CNN, 200 steps of
  parity in float64, float16 against float32 to the end, proofs over fsdp in several processes;
- the blocks of README and docs that start a process; the others and the syntax are always checked.
"""

import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # read when jax starts
# PyTorch's threads would spin while they wait: a step of a small model took ten times the CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
pytest.register_assert_rewrite("support")

from support.gpu import hide_gpus  # noqa: E402

hide_gpus()

from support import long  # noqa: E402
from support.compile_cache import (  # noqa: E402
    OLDER_EMITTERS,
    make_cache,
    no_cache,
    quick_compilation,
    session_cache,
    users_compilation,
)
from support.order import by_file  # noqa: E402
from support.runs import DIGITS, Finished  # noqa: E402
from support.scratch import use_memory  # noqa: E402
from support.shared_programs import own_programs, shared_programs  # noqa: E402
from support.slurm_lab import SlurmLab, reason_to_skip  # noqa: E402

LONG_TIMEOUT = 1800  # seconds for one test; the default is in pyproject.toml
collect_ignore = ["support"]
use_memory()
make_cache()


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "run the long tests too: more repetitions, and every combination"
    parser.addoption(long.OPTION, action="store_true", help=help_text)


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads its option
def pytest_configure(config: pytest.Config) -> None:
    long.choose(config)
    if config.getoption(long.OPTION) and not config.getoption("timeout", None):
        config.option.timeout = LONG_TIMEOUT


LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[LEFT_OUT] = long.deselect(config, items)
    items[:] = by_file(items)
    gc.freeze()  # else each full collection visits all that was imported: 5 % of a module's CPU


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of xdist hands its number on to the one that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    left_out = getattr(node, "workeroutput", {}).get("left_out", 0)
    node.config.stash[LEFT_OUT] = max(left_out, node.config.stash.get(LEFT_OUT, 0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{count} long tests left out; {long.OPTION} runs them too")


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(request: pytest.FixtureRequest) -> Iterator[None]:
    """The session's cache and shared programs, but for modules with the marker `uncached`."""
    if is_uncached(request.node):
        with no_cache():
            yield
        return
    markers = ("optimized",) if OLDER_EMITTERS else ("optimized", "convolutional")
    optimized = any(map(request.node.get_closest_marker, markers))
    alone = long.long_or(False, True) or has_own_programs(request.node)
    with session_cache(optimized=optimized), nullcontext() if alone else shared_programs():
        yield


@pytest.fixture(autouse=True)
def compilation_of_one_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """As the markers of a single test of a module say."""
    module = request.node.getparent(pytest.Module)
    uncached = is_uncached(request.node) and not is_uncached(module)
    own = has_own_programs(request.node) and not has_own_programs(module)
    with no_cache() if uncached else nullcontext(), own_programs() if own else nullcontext():
        yield


def is_uncached(node: pytest.Item | pytest.Collector) -> bool:
    return node.get_closest_marker("uncached") is not None


def has_own_programs(node: pytest.Item | pytest.Collector) -> bool:
    return is_uncached(node) or node.get_closest_marker("own_programs") is not None


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """An elastic run in this process sets the number of threads, and a comparison the platforms,
    also of what the next test starts in a process of its own.
    """
    from aetheria.hardware.jax.cpu.threads import BLAS_THREADS

    names = ("NPROC", "JAX_PLATFORMS", *BLAS_THREADS)
    before = {name: os.environ[name] for name in names if name in os.environ}
    yield
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


def train_in(folder: Path) -> Callable[..., Finished]:
    """A function that trains in this process, into a subfolder of `folder`."""

    def run(name: str = "run", **changes: Any) -> Finished:
        from aetheria.cli.train import TrainCommand

        names = ("resume", "overwrite", "accept_changes", "project", "stop_at_step")
        options = {key: changes.pop(key) for key in names if key in changes}
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**DIGITS, **changes}))
        run_dir = folder / name
        command = TrainCommand(config_file=file, workdir=run_dir, **options)
        return Finished(command.execute(), run_dir)

    return run


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Finished]:
    """Trains in this process: `train("name", resume="latest", epochs=3)` into tmp_path/name.

    Keyword arguments that are fields of TrainCommand are its options; any other is a key of the
    config, on top of DIGITS.
    """
    return train_in(tmp_path)


@pytest.fixture(scope="module")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """As `train`, for runs that several tests of a module only read."""
    return train_in(tmp_path_factory.mktemp("once"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., list[subprocess.Popen]]]:
    """Starts the processes of a run: `start(2, epochs=3, options=[...])`."""
    from support.processes import ProcessStarter

    starter = ProcessStarter(tmp_path)
    yield starter
    starter.kill_all()


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `aetheria ARGUMENTS` in this process, in tmp_path: for what is said and refused.

    The answer is as that of `cli`, which takes seconds longer.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, module: str = "aetheria.cli.main") -> subprocess.CompletedProcess:
        capfd.readouterr()
        code = importlib.import_module(module).main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m MODULE ARGUMENTS` in a process of its own, in tmp_path, on one device.

    `as_user=True` compiles as a user's process does; any other test takes what compiles fast
    (support/compile_cache.py).
    """

    def run(
        *arguments: str, module: str = "aetheria", as_user: bool = False, **options: Any
    ) -> Any:
        compilation = users_compilation() if as_user else quick_compilation()
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            **{
                "cwd": tmp_path,
                "env": {**os.environ, **compilation},
                "capture_output": True,
                "text": True,
                **options,
            },
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmLab]:
    """A SLURM of the tests' own, with two nodes."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    lab = SlurmLab(tmp_path_factory.mktemp("slurm"))
    lab.start()
    yield lab
    lab.stop()
