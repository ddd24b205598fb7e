"""Whether this tree computes what another commit computes, bit for bit.

    python scripts/same_bits.py COMMIT [--only mlp,cnn,lm,torch] [--steps 50] [--control]

Both are installed beside each other, each trains the shipped models from the same configs, and
every leaf of the last snapshot and every line of metrics is compared: under `fast` and `elastic`,
on one and on eight virtual devices, and with PyTorch. A change that is meant to move no bit shows
with it that none moved. `--control` trains this tree with a learning rate that is one part in a
million larger; every case must differ.

Exit code: 0, all are the same (with --control: all differ); 1, not so; 2, a side did not train.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# What two runs of one commit do not share; an older one may lack some.
RATES = (
    *("steps_per_second", "examples_per_second", "tokens_per_second", "mfu", "memory_bytes"),
    *("peak_memory_bytes", "data_wait_fraction"),
)
WORKS = {
    "mlp": ("configs/mlp.py", {"model_params.dropout": 0.1}),
    "cnn": (
        "configs/cnn.py",
        {"model_params.batch_norm": True, "model_params.dropout": 0.2, "batch_size": 32},
    ),
    "lm": ("configs/lm.py", {"model_params.num_layers": 2}),
}
LEARNING_RATE, CONTROL = 1e-3, 1e-3 * (1 + 1e-6)
# Run by each side with its own code: an older one may keep its snapshots in another way.
READ = """
import hashlib, json, pathlib, sys
try:
    from aetheria.snapshots import read_snapshot
except ImportError:
    from aetheria.resilience import read_snapshot
newest = max(pathlib.Path(sys.argv[1]).glob("snapshot_*"), key=lambda p: p.stat().st_mtime)
digest = lambda a: hashlib.sha256(f"{a.dtype}{a.shape}".encode() + a.tobytes()).hexdigest()
print(json.dumps({path: digest(array) for path, array in read_snapshot(newest).arrays.items()}))
"""


@dataclass(frozen=True)
class Case:
    """One run that both sides make.

    Attributes:
        name: what it is called in the report.
        config: the config file, below the repository.
        overrides: config key -> value.
        devices: virtual devices.
    """

    name: str
    config: str
    overrides: Mapping[str, object]
    devices: int


def cases(works: list[str], steps: int) -> Iterator[Case]:
    """Every model under every level and number of devices, then every model in PyTorch."""
    common = {"max_steps": steps, "log_every_steps": 1, "loggers": "[jsonl]"}
    for work in [w for w in works if w in WORKS]:
        config, own = WORKS[work]
        for level in ("fast", "elastic"):
            for devices in (1, 8):
                mesh = {"strategy": "mesh", "mesh": f"{{data: {devices}}}"}
                chosen = {**common, **own, **mesh, "reproducibility": level}
                yield Case(f"{work} {level} {devices}", config, chosen, devices)
    for work, (config, own) in WORKS.items() if "torch" in works else ():
        chosen = {**common, **own, "strategy": "torch"}
        yield Case(f"{work} torch", config, chosen, 1)


@dataclass(frozen=True)
class Side:
    """One installed version.

    Attributes:
        name: the commit, or `this tree`.
        source: its checkout, for the configs.
        installed: the folder it is installed in.
    """

    name: str
    source: Path
    installed: Path

    def train(self, case: Case, learning_rate: float, folder: Path) -> dict[str, object]:
        """Trains; returns what is compared: part -> value."""
        run_dir = folder / "run"
        overrides = {**case.overrides, "learning_rate": learning_rate}
        chosen = [f"--set={key}={value}" for key, value in overrides.items()]
        command = [
            "-m",
            "aetheria",
            "train",
            str(self.source / case.config),
            f"--workdir={run_dir}",
        ]
        self._python([*command, *chosen], folder, case)
        digests = self._python(["-c", READ, str(run_dir / "checkpoints")], folder, case)
        lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            for name in RATES:
                line.pop(name, None)
            line.pop("learning_rate", None)  # earlier versions do not tell it
        return {
            **json.loads(digests),
            **{f"metrics: {line['split']} at step {line['step']}": line for line in lines},
        }

    def _python(self, arguments: list[str], folder: Path, case: Case) -> str:
        flags = f"--xla_force_host_platform_device_count={case.devices}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.installed),
            "XLA_FLAGS": flags,
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # what one side compiled is not the other's
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"{case.name}, {self.name}: exit {done.returncode}\n{done.stderr}")
            sys.exit(2)
        return done.stdout


def install(source: Path, into: Path) -> None:
    """Installs a checkout's package into a folder, without what it needs, which is here."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={into}"]
    subprocess.run([*command, str(source)], check=True)


def sides(commit: str, folder: Path) -> tuple[Side, Side]:
    """The commit, checked out beside this tree, and this tree; both installed."""
    checkout = folder / "checkout"
    git = ["git", "-C", str(REPOSITORY)]
    archive = subprocess.run([*git, "archive", commit], check=True, capture_output=True)
    checkout.mkdir()
    subprocess.run(["tar", "-x", "-C", str(checkout)], input=archive.stdout, check=True)
    # A copy, since a build leaves files beside its source.
    tree = folder / "tree"
    tree.mkdir()
    listed = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, check=True, capture_output=True).stdout
    copy = ["tar", "-c", "-C", str(REPOSITORY), "--null", "--ignore-failed-read", "-T", "-"]
    packed = subprocess.run(copy, input=files, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed, check=True)
    made = []
    for name, source in ((commit, checkout), ("this tree", tree)):
        installed = folder / f"installed_{source.name}"
        install(source, installed)
        made.append(Side(name, source, installed))
    return made[0], made[1]


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The parts that are not the same, those that a side lacks among them."""
    parts = list(dict.fromkeys([*one, *other]))
    return [part for part in parts if one.get(part) != other.get(part)]


def main() -> int:
    """Trains every case on both sides, and prints a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit")
    parser.add_argument("--only", default="mlp,cnn,lm,torch", help="default: all")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    works = options.only.split(",")
    if unknown := set(works) - {*WORKS, "torch"}:
        parser.error(f"--only: expected some of {', '.join(WORKS)}, torch, got {unknown}")
    find = ["git", "-C", str(REPOSITORY), "rev-parse", "--quiet", "--verify"]
    if subprocess.run([*find, f"{options.commit}^{{commit}}"], capture_output=True).returncode:
        parser.error(f"commit: expected one of this repository, got {options.commit!r}")
    as_expected = True
    with tempfile.TemporaryDirectory() as scratch:
        before, now = sides(options.commit, Path(scratch))
        for case in cases(works, options.steps):
            with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
                told = before.train(case, LEARNING_RATE, Path(one))
                rate = CONTROL if options.control else LEARNING_RATE
                found = differences(told, now.train(case, rate, Path(other)))
            shown = f"{len(found)} of {len(told)} differ, first {found[0]}" if found else "the same"
            print(f"{case.name:16} {shown}", flush=True)
            as_expected &= bool(found) == options.control
    return 0 if as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
